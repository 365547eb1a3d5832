"""Which words stand around a window, and how often: sparse per window, dense only per batch.

For a document of N words it keeps each window's distinct words with their counts (at most N pairs)
and one total; the context of window i under `all` is the total without its own words.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hydrahead.keyphrase.documents import Document, has_letters
from hydrahead.keyphrase.static_vectors import Lookup, pad_rows
from hydrahead.keyphrase.windows import Window

ALL = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchContext:
    """Context of a batch of windows: distinct words as rows of the static table, and counts."""

    rows: Int[Tensor, "m s"]
    log_counts: Float[Tensor, "b m"]

    def to(self, device: torch.device | str) -> "BatchContext":
        """The same on `device`."""
        return BatchContext(rows=self.rows.to(device), log_counts=self.log_counts.to(device))


class DocumentContext:
    """Counts of a document's words, window by window; `add` the windows in order."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._number: dict[str, int | None] = {}
        self._rows: list[Sequence[int]] = []
        self._windows: list[tuple[np.ndarray, np.ndarray]] = []
        self._total = np.zeros(0, np.int64)
        self._totalled = 0

    @classmethod
    def of(cls, document: Document, windows: Iterable[Window], lookup: Lookup) -> "DocumentContext":
        """The context of a whole document."""
        context = cls(lookup)
        for window in windows:
            context.add(document.words(window.first, window.stop))
        return context

    @property
    def num_windows(self) -> int:
        """Windows counted so far."""
        return len(self._windows)

    @property
    def num_words(self) -> int:
        """Distinct words that have a static vector."""
        return len(self._rows)

    def add(self, words: Iterable[str]) -> None:
        """Count the next window; punctuation and words without a vector do not count."""
        counts: Counter[int] = Counter()
        for word in words:
            if word not in self._number:
                self._number[word] = self._new(word)
            if (number := self._number[word]) is not None:
                counts[number] += 1
        ids = np.fromiter(counts, np.int32, len(counts))
        self._windows.append((ids, np.fromiter(counts.values(), np.int32, len(counts))))

    def batch(self, windows: Sequence[int], neighbours: int) -> BatchContext:
        """The context of some windows.

        Args:
            windows: Their numbers; a window never counts for itself.
            neighbours: Windows to each side that count; `ALL` for the whole document.
        """
        counts = np.stack([self._counts(window, neighbours) for window in windows])
        used = np.flatnonzero(counts.any(axis=0))
        rows = pad_rows([self._rows[number] for number in used])
        with np.errstate(divide="ignore"):
            logs = np.log(counts[:, used].astype(np.float32))
        return BatchContext(rows=torch.from_numpy(rows), log_counts=torch.from_numpy(logs))

    def _new(self, word: str) -> int | None:
        rows = self._lookup(word) if has_letters(word) else ()
        if not rows:
            return None
        self._rows.append(rows)
        return len(self._rows) - 1

    def _counts(self, window: int, neighbours: int) -> np.ndarray:
        if neighbours == ALL:
            counts = self._whole().copy()
            taken, sign = [window], -1
        else:
            counts = np.zeros(len(self._rows), np.int64)
            last = min(window + neighbours, self.num_windows - 1)
            around = range(max(0, window - neighbours), last + 1)
            taken, sign = [number for number in around if number != window], 1
        for number in taken:
            ids, occurrences = self._windows[number]
            counts[ids] += sign * occurrences
        return counts

    def _whole(self) -> np.ndarray:
        """Counts of the document; brought up to date when windows have been added."""
        grown = len(self._rows) - len(self._total)
        self._total = np.pad(self._total, (0, grown))
        for ids, occurrences in self._windows[self._totalled :]:
            self._total[ids] += occurrences
        self._totalled = self.num_windows
        return self._total
