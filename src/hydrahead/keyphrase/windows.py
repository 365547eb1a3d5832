"""Documents cut into windows that an encoder can read, each word in exactly one of them.

Windows end at word borders and do not overlap, so nothing is read or counted twice; each holds as
many words as fit. A word is known to the encoder by its first token (specs: 6.4); a word that the
tokenizer drops altogether has none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydrahead.core.errors import HydraHeadError
from hydrahead.keyphrase.documents import Document

NO_TOKEN = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Words `first` up to `stop` of a document, and how an encoder reads them.

    `token_of[i]` is the position in `input_ids` of the first token of word `first + i`.
    """

    first: int
    stop: int
    input_ids: np.ndarray
    token_of: np.ndarray


class WindowCutter:
    """Cuts documents with a fast tokenizer of transformers.

    Args:
        tokenizer: It must be able to say which characters a token stands for.
        window_tokens: Tokens of a window, special tokens included.

    Raises:
        HydraHeadError: The tokenizer is a slow one, or the window holds no word.
    """

    def __init__(self, tokenizer: Any, window_tokens: int) -> None:
        require_fast(tokenizer)
        self._tokenizer = tokenizer
        self._limit = window_tokens
        self._room = window_tokens - tokenizer.num_special_tokens_to_add(pair=False)
        if self._room < 1:
            raise HydraHeadError(
                f"a window of {window_tokens} tokens holds no word",
                where="window_tokens",
                mend="choose a larger one",
            )

    def windows(self, document: Document) -> Iterator[Window]:
        """The windows of a document in order; none if it has no words."""
        first, total = 0, len(document.spans)
        while first < total:
            stop = self._last_that_fits(document, first)
            yield self._window(document, first, stop)
            first = stop

    def _last_that_fits(self, document: Document, first: int) -> int:
        """The end of the longest run of words whose tokens fit; at least one word."""
        spans = document.spans[first : first + self._room]
        text = document.text[spans[0, 0] : spans[-1, 1]]
        encoded = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        offsets = np.asarray(encoded["offset_mapping"], np.int64).reshape(-1, 2)
        if len(offsets) <= self._room:
            return first + len(spans)
        # The first token that does not fit decides: its word, and all after it, stay out.
        ends = spans[:, 1] - spans[0, 0]
        return first + max(1, int(np.searchsorted(ends, offsets[self._room, 0], side="right")))

    def _window(self, document: Document, first: int, stop: int) -> Window:
        spans = document.spans[first:stop]
        base = spans[0, 0]
        encoded = self._tokenizer(
            document.text[base : spans[-1, 1]],
            truncation=True,  # cuts a word longer than a window, or where a cut text reads longer
            max_length=self._limit,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        offsets = np.asarray(encoded["offset_mapping"], np.int64).reshape(-1, 2)
        real = np.asarray(encoded["special_tokens_mask"]) == 0
        positions = np.flatnonzero(real & (offsets[:, 1] > offsets[:, 0]))
        return Window(
            first=first,
            stop=stop,
            input_ids=np.asarray(encoded["input_ids"], np.int64),
            token_of=_first_tokens(spans - base, offsets[positions], positions),
        )


def _first_tokens(spans: np.ndarray, offsets: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """For every word the first token that overlaps it, or `NO_TOKEN`."""
    if not len(positions):
        return np.full(len(spans), NO_TOKEN, np.int64)
    number = np.searchsorted(offsets[:, 1], spans[:, 0], side="right")
    inside = np.minimum(number, len(positions) - 1)
    overlaps = (number < len(positions)) & (offsets[inside, 0] < spans[:, 1])
    return np.where(overlaps, positions[inside], NO_TOKEN)


def require_fast(tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot say which characters a token stands for.

    Raises:
        HydraHeadError: It is a slow one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise HydraHeadError(
            "this encoder has no fast tokenizer, and keyphrases need to know where tokens stand",
            where=getattr(tokenizer, "name_or_path", None) or None,
            mend="choose an encoder with a tokenizer.json",
        )
