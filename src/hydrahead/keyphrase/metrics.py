"""How good predicted keyphrases are; the conventions, each with a hand-worked test.

Phrases are equal if their Porter stems are (`stems`). Predictions are a ranked list without
duplicates. Gold are the phrases of the document that stand in its text, since an extractor can find
no other; how many do not is reported, and a document without any is left out and counted.

F1@K looks at the first K predictions; precision divides by how many there were, at most K.
`padded` divides by K whatever there was. F1@M looks at all predictions, F1@O at as many as there
are gold phrases. All are means over documents. The tag score is seqeval's F1: exact spans, counted
over all documents together, an I after an O starting a span.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydrahead.keyphrase.documents import BEGIN, OUTSIDE, Document
from hydrahead.keyphrase.stems import distinct, stems

Key = tuple[str, ...]
CUTS = (5, 10)


def f1(matches: int, predicted: int, gold: int) -> float:
    """Harmonic mean of precision and recall; 0 where nothing matches."""
    return 2 * matches / (predicted + gold) if matches else 0.0


def f1_at(predicted: Sequence[Key], gold: set[Key], cut: int, *, padded: bool = False) -> float:
    """F1 of the first `cut` predictions."""
    looked_at = predicted[:cut]
    matches = sum(key in gold for key in looked_at)
    return f1(matches, cut if padded else len(looked_at), len(gold))


def phrase_scores(predicted: Sequence[str], gold: Iterable[str]) -> dict[str, float]:
    """All phrase scores of one document.

    Args:
        predicted: Best first.
        gold: At least one phrase.
    """
    keys = list(distinct(predicted))
    wanted = {key for phrase in gold if (key := stems(phrase))}
    scores = {f"f1@{cut}": f1_at(keys, wanted, cut) for cut in CUTS}
    scores |= {f"f1@{cut} padded": f1_at(keys, wanted, cut, padded=True) for cut in CUTS}
    scores["f1@m"] = f1_at(keys, wanted, len(keys))
    scores["f1@o"] = f1_at(keys, wanted, len(wanted))
    return scores


def tag_spans(tags: np.ndarray) -> set[tuple[int, int]]:
    """Spans [first, stop) of BIO classes, as seqeval's default mode reads them."""
    inside = tags != OUTSIDE
    before = np.concatenate([[False], inside[:-1]])
    starts = inside & ((tags == BEGIN) | ~before)
    ends = np.concatenate([starts | ~inside, [True]])
    firsts = np.flatnonzero(starts)
    # A span ends at the first place after its start where another starts or nothing is inside.
    stops = np.flatnonzero(ends)
    following = np.searchsorted(stops, firsts, side="right")
    return set(zip(firsts.tolist(), stops[following].tolist(), strict=True))


def present(document: Document) -> list[str]:
    """The gold phrases that stand in a document's text, each once.

    They start and end with whole words or their parts between hyphens, dots and underscores.
    """
    text = [stem for word in document.words() for stem in stems(word)]
    places: dict[str, list[int]] = {}
    for place, piece in enumerate(text):
        places.setdefault(piece, []).append(place)
    gold = distinct(document.keyphrases or ())
    return [
        phrase
        for key, phrase in gold.items()
        if any(tuple(text[at : at + len(key)]) == key for at in places.get(key[0], ()))
    ]


@dataclass(slots=True)
class TagCounts:
    """Spans seen so far, for a score over all documents together."""

    matched: int = 0
    predicted: int = 0
    gold: int = 0

    def add(self, predicted: np.ndarray, gold: np.ndarray) -> None:
        """Count one document's tags."""
        mine, theirs = tag_spans(predicted), tag_spans(gold)
        self.matched += len(mine & theirs)
        self.predicted += len(mine)
        self.gold += len(theirs)

    def f1(self) -> float:
        """Micro F1, as seqeval gives it."""
        return f1(self.matched, self.predicted, self.gold)


def mean_scores(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over documents; empty without any."""
    names = rows[0] if rows else {}
    return {name: float(np.mean([row[name] for row in rows])) for name in names}


def summary(
    documents: Sequence[Document], predictions: Sequence[Sequence[str]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores over documents, and the same document by document.

    Args:
        documents: With gold phrases.
        predictions: Of each, best first.
    """
    rows: list[dict[str, Any]] = []
    absent = without = 0
    for document, predicted in zip(documents, predictions, strict=True):
        gold = present(document)
        absent += len(distinct(document.keyphrases or ())) - len(gold)
        if not gold:
            without += 1
            continue
        scores = phrase_scores(predicted, gold)
        rows.append({"id": document.id, "gold": len(gold), "predicted": len(predicted), **scores})
    names = ("id", "gold", "predicted")
    means = mean_scores([{k: v for k, v in row.items() if k not in names} for row in rows])
    counts = {
        "documents": len(rows),
        "documents_without_present_keyphrases": without,
        "present_keyphrases": sum(row["gold"] for row in rows),
        "absent_keyphrases": absent,
    }
    return {**means, **counts}, rows
