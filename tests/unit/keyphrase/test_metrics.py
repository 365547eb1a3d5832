"""Metric conventions on examples worked by hand."""

import numpy as np
import pytest

from hydrahead.keyphrase.documents import Document
from hydrahead.keyphrase.metrics import TagCounts, phrase_scores, present, summary, tag_spans
from hydrahead.keyphrase.stems import distinct, stems

GOLD = ["neural networks", "attention", "long documents", "keyphrase"]
SEQEVAL = (
    0.23005565862708718,
    0.21229050279329612,
    0.23818525519848774,
    0.2892857142857143,
    0.22264875239923224,
)
"""f1_score of seqeval 1.2.2 on the tags that the test draws; it needs scikit-learn, so it is no
dependency. 295 more draws agreed."""
FOUND = ["Neural network", "model", "Attention", "keyphrases", "keyphrase", "words", "data"]


def test_stems_make_plurals_equal_and_order_counts() -> None:
    assert stems("Neural Networks") == stems("neural network") == ("neural", "network")
    assert stems("network neural") != stems("neural network")
    assert stems("in-place") == stems("in place")
    assert stems("C++") != stems("C")
    assert stems("...") == ()


def test_duplicates_by_stem_count_once() -> None:
    assert list(distinct(FOUND).values()) == [*FOUND[:4], "words", "data"]


def test_phrase_scores_by_hand() -> None:
    # Distinct: network, model, attention, keyphrase, word, data; three of them are gold (of 4).
    scores = phrase_scores(FOUND, GOLD)
    assert scores["f1@5"] == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    assert scores["f1@m"] == pytest.approx(2 * (3 / 6) * (3 / 4) / (3 / 6 + 3 / 4))
    assert scores["f1@10"] == scores["f1@m"]  # six predictions, not ten, were made
    assert scores["f1@10 padded"] == pytest.approx(2 * (3 / 10) * (3 / 4) / (3 / 10 + 3 / 4))
    assert scores["f1@o"] == pytest.approx(3 / 4)  # the first four: precision 3/4, recall 3/4


def test_nothing_found_or_nothing_right_is_zero() -> None:
    assert set(phrase_scores([], GOLD).values()) == {0.0}
    assert set(phrase_scores(["model"], GOLD).values()) == {0.0}


def test_gold_that_does_not_stand_in_the_text_does_not_count() -> None:
    document = Document(
        "a", "Neural network models, and in-place attention.", keyphrases=tuple(GOLD)
    )
    assert present(document) == ["neural networks", "attention"]


def test_the_mean_is_over_documents_with_present_keyphrases() -> None:
    documents = [
        Document("a", "attention and memory", keyphrases=("attention", "absent")),
        Document("b", "attention and memory", keyphrases=("memory",)),
        Document("c", "attention and memory", keyphrases=("nowhere",)),
    ]
    scores, rows = summary(documents, [["attention"], ["attention"], ["attention"]])
    assert scores["f1@m"] == pytest.approx((1.0 + 0.0) / 2)
    assert scores["documents"] == 2
    assert scores["documents_without_present_keyphrases"] == 1
    assert scores["absent_keyphrases"] == 2
    assert [row["id"] for row in rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("OBIIO", {(1, 4)}),
        ("BBI", {(0, 1), (1, 3)}),
        ("OIIO", {(1, 3)}),  # seqeval's default mode: an I after an O starts a span
        ("BIOI", {(0, 2), (3, 4)}),
        ("OOO", set()),
        ("B", {(0, 1)}),
    ],
)
def test_tag_spans(tags: str, spans: set[tuple[int, int]]) -> None:
    assert tag_spans(np.array(["OBI".index(tag) for tag in tags], np.int8)) == spans


def test_tag_f1_is_micro() -> None:
    counts = TagCounts()
    counts.add(np.array([1, 2, 0, 1]), np.array([1, 2, 0, 0]))  # one of two right, gold one
    counts.add(np.array([1, 0, 0]), np.array([1, 2, 0]))  # a wrong end is wrong
    assert counts.f1() == pytest.approx(2 * 1 / (3 + 2))


@pytest.mark.parametrize(("seed", "expected"), [*enumerate(SEQEVAL)])
def test_tag_f1_is_seqevals(seed: int, expected: float) -> None:
    random = np.random.default_rng(seed)
    counts = TagCounts()
    for _ in range(20):
        mine, gold = random.integers(0, 3, 30), random.integers(0, 3, 30)
        counts.add(mine, gold)
    assert counts.f1() == pytest.approx(expected, abs=1e-12)
