"""From probabilities of words to a ranked list of phrases of the whole document.

A word is inside a phrase if P(B) + P(I) reaches the threshold; it begins a new one if the word
before it is outside or P(B) > P(I). Windows share no word and their probabilities are laid end to
end first, so a phrase that crosses a window's edge is one phrase and nothing is counted twice.
Occurrences with equal stems are one phrase, shown in its most frequent spelling.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hydrahead.keyphrase.documents import BEGIN, INSIDE, Document, has_letters
from hydrahead.keyphrase.stems import stems


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyphrase:
    """One phrase of a document.

    Attributes:
        phrase: As it is spelt most often.
        score: Its rank's number; comparable within a document only.
        count: Occurrences that were tagged.
        start: Where the first one stands, in characters.
    """

    phrase: str
    score: float
    count: int
    start: int


@dataclass(slots=True)
class Occurrences:
    """The tagged places of one phrase."""

    scores: list[float] = field(default_factory=list)
    spellings: list[str] = field(default_factory=list)
    start: int = 0


RANKINGS: Mapping[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "max": max,
    "mean": lambda scores: sum(scores) / len(scores),
}
"""How the scores of a phrase's occurrences become one."""


def find_spans(
    document: Document, probabilities: np.ndarray, threshold: float, max_words: int
) -> list[tuple[int, int]]:
    """Words [first, stop) of every tagged phrase, in order.

    Args:
        document: The document.
        probabilities: P(B) and P(I) of every word, [n 2].
        threshold: From which P(B) + P(I) on a word is inside.
        max_words: Longer runs are no phrase.
    """
    begin, inside = probabilities[:, 0], probabilities[:, 1]
    tagged = begin + inside >= threshold
    before = np.concatenate([[False], tagged[:-1]])
    after = np.concatenate([tagged[1:], [False]])
    starts = tagged & (~before | (begin > inside))
    start_after = np.concatenate([starts[1:], [False]])
    ends = tagged & (~after | start_after)
    spans: list[tuple[int, int]] = []
    for first, last in zip(np.flatnonzero(starts), np.flatnonzero(ends), strict=True):
        first, stop = int(first), int(last) + 1
        while first < stop and not has_letters(document.word(first)):
            first += 1
        while stop > first and not has_letters(document.word(stop - 1)):
            stop -= 1
        if 0 < stop - first <= max_words:
            spans.append((first, stop))
    return spans


def rank_phrases(
    document: Document,
    probabilities: np.ndarray,
    spans: list[tuple[int, int]],
    ranking: str,
) -> list[Keyphrase]:
    """Distinct phrases, best first; of equal ones the earlier first."""
    return ranked(gather_occurrences(document, probabilities, spans), ranking)


def gather_occurrences(
    document: Document, probabilities: np.ndarray, spans: list[tuple[int, int]]
) -> list[Occurrences]:
    """Tagged places by phrase, in the order of first occurrence; a place scores its words' mean."""
    found: dict[tuple[str, ...], Occurrences] = {}
    sums = np.concatenate([[0.0], np.cumsum(probabilities.sum(axis=1), dtype=np.float64)])
    bounds = document.spans
    for first, stop in spans:
        start, end = int(bounds[first, 0]), int(bounds[stop - 1, 1])
        spelling = " ".join(document.text[start:end].split())
        key = stems(spelling)
        if key not in found:
            found[key] = Occurrences(start=start)
        found[key].scores.append(float(sums[stop] - sums[first]) / (stop - first))
        found[key].spellings.append(spelling)
    return list(found.values())


def ranked(found: list[Occurrences], ranking: str) -> list[Keyphrase]:
    """Phrases by the score their occurrences make together."""
    together = RANKINGS[ranking]
    phrases = [
        Keyphrase(
            phrase=Counter(seen.spellings).most_common(1)[0][0],
            score=round(together(seen.scores), 6),
            count=len(seen.scores),
            start=seen.start,
        )
        for seen in found
    ]
    return sorted(phrases, key=lambda phrase: (-phrase.score, phrase.start))


def spans_as_tags(spans: list[tuple[int, int]], num_words: int) -> np.ndarray:
    """The classes that say the same as some spans, int8 [n]."""
    tags = np.zeros(num_words, np.int8)
    for first, stop in spans:
        tags[first] = BEGIN
        tags[first + 1 : stop] = INSIDE
    return tags
