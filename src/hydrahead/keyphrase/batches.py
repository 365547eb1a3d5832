"""In which order windows are learned: a pure function of the seed and the epoch.

A batch holds windows of one document, so that they share one context; windows are shuffled within
their document, batches among all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.seeds import generator
from hydrahead.keyphrase.context import DocumentContext
from hydrahead.keyphrase.encodings import Prepared, known_words
from hydrahead.keyphrase.windows import Window

IGNORE = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A split made ready: documents, their words' classes, kept states, lent contexts."""

    prepared: tuple[Prepared, ...]
    labels: tuple[np.ndarray, ...]
    states: tuple[np.ndarray, ...] | None
    """The encoder's states if it is frozen."""
    donors: tuple[DocumentContext, ...] | None
    """Contexts of other documents, for the shuffled control."""

    def state(self, index: int) -> np.ndarray | None:
        """Kept states of one document."""
        return None if self.states is None else self.states[index]

    def donor(self, index: int) -> DocumentContext | None:
        """The context lent to one document."""
        return None if self.donors is None else self.donors[index]


def lent_contexts(prepared: Sequence[Prepared]) -> tuple[DocumentContext, ...]:
    """Every document gets the context of the one half the list away.

    Not of the next one: files often hold chapters of one book side by side, which share words.

    Raises:
        HydraHeadError: There is only one document.
    """
    if len(prepared) == 1:
        raise HydraHeadError(
            "a split of one document has no other to look at",
            where="control=shuffled",
            mend="give more documents for training and validation",
        )
    contexts = [one.context for one in prepared]
    half = (len(contexts) + 1) // 2
    return tuple(contexts[half:] + contexts[:half])


def epoch_batches(
    part: Part, *, batch_size: int, seed: int, epoch: int
) -> list[tuple[int, list[int]]]:
    """Document and window numbers of every batch of an epoch."""
    random = generator(seed, "keyphrases", "epoch", epoch)
    batches: list[tuple[int, list[int]]] = []
    for number, one in enumerate(part.prepared):
        windows = list(range(len(one.windows)))
        random.shuffle(windows)
        batches += [
            (number, windows[start : start + batch_size])
            for start in range(0, len(windows), batch_size)
        ]
    random.shuffle(batches)
    return batches


def batch_labels(windows: Sequence[Window], labels: np.ndarray) -> Int[Tensor, "b w"]:
    """Classes of the words of some windows; `IGNORE` on padding and on words never read."""
    longest = max(window.stop - window.first for window in windows)
    rows = np.full((len(windows), longest), IGNORE, np.int64)
    for row, window in enumerate(windows):
        known = known_words(window)
        rows[row, : len(known)] = np.where(known, labels[window.first : window.stop], IGNORE)
    return torch.from_numpy(rows)
