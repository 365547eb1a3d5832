"""A document: its text, where its words are, and, if known, its keyphrases."""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hydrahead.keyphrase.stems import PIECE, stems

WORD = re.compile(r"[^\W_](?:[^\W_]|[-.'_\u2019](?=[^\W_]))*[+#]*|[^\w\s]|_+")
"""Letters and digits, held together by single hyphens, dots, apostrophes and underscores; every
other mark is a word of its own."""
OUTSIDE, BEGIN, INSIDE = 0, 1, 2
TAGS = ("O", "B", "I")
"""By class number."""


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        id: Name that predictions and gold phrases are matched by.
        text: All of it.
        spans: Where the words stand, character offsets [n 2]; found in the text if not given.
        keyphrases: As people gave them; None if nobody did.
        tags: Class of every word (see `TAGS`), where the data brings them.
    """

    id: str
    text: str
    given_spans: np.ndarray | None = None
    keyphrases: tuple[str, ...] | None = None
    tags: np.ndarray | None = None

    @functools.cached_property
    def spans(self) -> np.ndarray:
        """Character offsets of the words, int32 [n 2]."""
        if self.given_spans is not None:
            return self.given_spans
        flat = np.fromiter(
            (offset for match in WORD.finditer(self.text) for offset in match.span()), np.int32
        )
        return flat.reshape(-1, 2)

    def word(self, index: int) -> str:
        """One word."""
        start, end = self.spans[index]
        return self.text[start:end]

    def words(self, first: int = 0, stop: int | None = None) -> Iterator[str]:
        """Words `first` up to `stop`."""
        for start, end in self.spans[first:stop].tolist():
            yield self.text[start:end]

    def labels(self) -> np.ndarray:
        """The class of every word, int8 [n]: as given, else where the keyphrases stand."""
        if self.tags is not None:
            return self.tags
        return tag_words(self, self.keyphrases or ())


def from_words(
    identity: str,
    words: Sequence[str],
    *,
    keyphrases: tuple[str, ...] | None = None,
    tags: np.ndarray | None = None,
) -> Document:
    """A document that was cut into words by somebody else; they are joined by spaces."""
    lengths = np.fromiter(map(len, words), np.int32, len(words))
    starts = np.concatenate([[0], np.cumsum(lengths[:-1] + 1)]) if len(words) else lengths
    spans = np.stack([starts, starts + lengths], axis=1).astype(np.int32)
    return Document(identity, " ".join(words), spans, keyphrases, tags)


def tag_words(document: Document, keyphrases: Sequence[str]) -> np.ndarray:
    """BIO classes of the words, int8 [n]: every place where a keyphrase's stems stand.

    Longest first, left to right, no word twice. A place starts and ends with whole words.
    """
    wanted: dict[str, list[tuple[str, ...]]] = {}
    for key in {stems(phrase) for phrase in keyphrases} - {()}:
        wanted.setdefault(key[0], []).append(key)
    for keys in wanted.values():
        keys.sort(key=len, reverse=True)
    labels = np.zeros(len(document.spans), np.int8)
    if not wanted:
        return labels
    found: list[str] = []
    owners: list[int] = []
    for number, word in enumerate(document.words()):
        pieces = stems(word)
        found += pieces
        owners += [number] * len(pieces)
    owners.append(-1)
    at = 0
    while at < len(found):
        at += _mark(labels, at, found, owners, wanted.get(found[at], ()))
    return labels


def _mark(
    labels: np.ndarray,
    at: int,
    found: list[str],
    owners: list[int],
    candidates: Sequence[tuple[str, ...]],
) -> int:
    """Mark the longest candidate that stands at a piece; returns how many pieces to go on."""
    if at and owners[at - 1] == owners[at]:
        return 1  # the middle of a word
    for key in candidates:
        end = at + len(key)
        if tuple(found[at:end]) == key and owners[end - 1] != owners[end]:
            first, last = owners[at], owners[end - 1]
            labels[first] = BEGIN
            labels[first + 1 : last + 1] = INSIDE
            return len(key)
    return 1


def has_letters(word: str) -> bool:
    """Whether a word is more than punctuation."""
    return PIECE.search(word) is not None
