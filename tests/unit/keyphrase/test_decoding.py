"""From probabilities to ranked phrases of a document."""

import numpy as np
import pytest

from hydrahead.keyphrase.decoding import find_spans, rank_phrases, spans_as_tags
from hydrahead.keyphrase.documents import Document
from hydrahead.keyphrase.prediction import choose_decoding

TEXT = "Gated delta rules , the gated deltas ( windows ) rule ."
DOCUMENT = Document("a", TEXT)


def chances(**by_word: tuple[float, float]) -> np.ndarray:
    """P(B), P(I) by word number, as w3=(0.9, 0)."""
    out = np.zeros((len(DOCUMENT.spans), 2), np.float32)
    for name, pair in by_word.items():
        out[int(name[1:])] = pair
    return out


def test_spans_end_where_another_begins() -> None:
    found = chances(w0=(0.9, 0), w1=(0.1, 0.7), w2=(0.6, 0.1), w8=(0.2, 0.3))
    assert find_spans(DOCUMENT, found, 0.5, 6) == [(0, 2), (2, 3), (8, 9)]
    assert find_spans(DOCUMENT, found, 0.75, 6) == [(0, 2)]


def test_an_inside_after_nothing_begins() -> None:
    assert find_spans(DOCUMENT, chances(w4=(0, 0.9), w5=(0, 0.9)), 0.5, 6) == [(4, 6)]


def test_punctuation_at_the_edges_and_long_runs_are_no_phrase() -> None:
    found = chances(w7=(0.9, 0), w8=(0, 0.9), w9=(0, 0.9), w3=(0.9, 0))
    assert find_spans(DOCUMENT, found, 0.5, 6) == [(8, 9)]
    everything = np.tile(np.array([[0.1, 0.8]], np.float32), (len(DOCUMENT.spans), 1))
    assert find_spans(DOCUMENT, everything, 0.5, 6) == []


@pytest.mark.parametrize(
    ("ranking", "order"), [("sum", "Gated delta"), ("max", "windows"), ("mean", "windows")]
)
def test_occurrences_with_equal_stems_are_one_phrase(ranking: str, order: str) -> None:
    found = chances(
        w0=(0.6, 0), w1=(0, 0.6), w5=(0.8, 0), w6=(0, 0.6), w8=(0.9, 0), w2=(0, 0), w10=(0.5, 0)
    )
    spans = find_spans(DOCUMENT, found, 0.5, 6)
    phrases = rank_phrases(DOCUMENT, found, spans, ranking)
    assert phrases[0].phrase == order
    gated = next(p for p in phrases if p.phrase == "Gated delta")
    assert (gated.count, gated.start) == (2, 0)
    expected = {"sum": 0.6 + 0.7, "max": 0.7, "mean": 0.65}[ranking]
    assert gated.score == pytest.approx(expected, abs=1e-5)


def test_equal_scores_are_told_apart_by_place() -> None:
    found = chances(w2=(0.7, 0), w8=(0.7, 0))
    spans = find_spans(DOCUMENT, found, 0.5, 6)
    assert [p.phrase for p in rank_phrases(DOCUMENT, found, spans, "max")] == ["rules", "windows"]


def test_tags_of_spans() -> None:
    assert spans_as_tags([(0, 2), (2, 3)], 5).tolist() == [1, 2, 1, 0, 0]


def test_decoding_is_chosen_on_the_documents_given() -> None:
    document = Document("a", TEXT, keyphrases=("windows",))
    found = chances(w8=(0.9, 0), w2=(0.45, 0))
    chosen = choose_decoding([document], [found], max_words=6)
    assert chosen.threshold == 0.5
    assert chosen.scores["f1@m"] == 1.0
