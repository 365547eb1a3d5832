"""The expansion layer: counts, emptiness, joins, and what it adds."""

import itertools
from typing import Any

import pytest
import torch
from tiny_encoder import tiny_bert

from hydrahead.core.errors import HydraHeadError
from hydrahead.keyphrase.configuration import KeyphraseConfig, widest_affordable
from hydrahead.keyphrase.expansion import Expansion
from hydrahead.keyphrase.modeling import KeyphraseModel, build_model
from hydrahead.keyphrase.static_vectors import StaticEmbedding

NOWHERE = float("-inf")


def layer(heads: int = 2) -> Expansion:
    return Expansion(hidden=6, static_width=5, width=8, heads=heads)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_distinct_words_with_log_counts_equal_every_occurrence(heads: int) -> None:
    expansion, hidden, vectors = layer(heads), torch.randn(1, 3, 6), torch.randn(4, 5)
    counts = torch.tensor([3, 1, 0, 7])
    every = vectors.repeat_interleave(counts, dim=0)
    distinct = expansion(hidden, vectors, counts.float().log()[None])
    occurrences = expansion(hidden, every, torch.zeros(1, len(every)))
    torch.testing.assert_close(distinct, occurrences, rtol=1e-5, atol=1e-6)


def test_it_is_the_equation() -> None:
    expansion, hidden, vectors = layer(1), torch.randn(1, 3, 6), torch.randn(4, 5)
    logs = torch.randn(1, 4)
    scores = expansion.query(hidden) @ expansion.key(vectors).T / 8**0.5 + logs[:, None]
    expected = scores.softmax(-1) @ expansion.value(vectors)
    torch.testing.assert_close(expansion(hidden, vectors, logs), expected)


def test_an_empty_context_is_exactly_zero_and_disturbs_nobody() -> None:
    expansion, hidden, vectors = layer(), torch.randn(2, 3, 6), torch.randn(4, 5)
    logs = torch.stack([torch.full((4,), NOWHERE), torch.zeros(4)])
    gathered = expansion(hidden, vectors, logs)
    assert torch.equal(gathered[0], torch.zeros(3, 8))
    alone = expansion(hidden[1:], vectors, logs[1:])
    torch.testing.assert_close(gathered[1:], alone)
    assert torch.equal(expansion(hidden, vectors[:0], logs[:, :0]), torch.zeros(2, 3, 8))
    gathered.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in expansion.parameters())


def test_a_word_that_does_not_occur_has_no_influence() -> None:
    expansion, hidden, vectors = layer(), torch.randn(1, 3, 6), torch.randn(4, 5)
    logs = torch.tensor([[0.0, NOWHERE, 1.0, 0.0]])
    before = expansion(hidden, vectors, logs)
    vectors[1] = 1e4
    torch.testing.assert_close(expansion(hidden, vectors, logs), before)


def test_static_vectors_are_means_of_rows_without_padding() -> None:
    table = StaticEmbedding(4, 2, trainable=False)
    table.weight.data = torch.tensor([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    means = table(torch.tensor([[1, 3], [2, 0]]))
    assert means.tolist() == [[3.0, 4.0], [3.0, 4.0]]


def tagger(**settings: Any) -> KeyphraseModel:
    return build_model(tiny_bert(50), width=8, **settings).eval()


@pytest.mark.parametrize(
    ("join", "neighbours", "train_static"),
    [*itertools.product(["concat", "add"], [-1, 2], [False, True])],
)
def test_joins_and_their_parameters(join: str, neighbours: int, train_static: bool) -> None:
    model = tagger(join=join, neighbours=neighbours, train_static=train_static)
    plain = tagger(neighbours=0)
    static = model.static.weight.numel()
    total, without = (sum(p.numel() for p in m.parameters()) for m in (model, plain))
    assert total - without - static == model.added_parameters
    assert model.static.weight.requires_grad is train_static
    assert plain.added_parameters == 0
    logits = model(
        input_ids=torch.randint(4, 50, (2, 7)),
        context_rows=torch.randint(1, 50, (5, 2)),
        context_log_counts=torch.zeros(2, 5),
    ).logits
    assert logits.shape == (2, 7, 3)
    logits.sum().backward()
    assert model.expansion.query.weight.grad.abs().sum() > 0


def test_without_a_context_added_vectors_change_nothing() -> None:
    model = tagger(join="add")
    ids = torch.randint(4, 50, (1, 7))
    hidden = model.encode(ids)
    torch.testing.assert_close(model(input_ids=ids).logits, model.classifier(hidden))


def test_the_width_fits_the_budget_of_real_encoders() -> None:
    """DistilBERT with 300-wide vectors: 66.4 M parameters, d 768 (specs: 6.4)."""
    for join in ("concat", "add"):
        width = widest_affordable(
            encoder_parameters=66_362_880, hidden=768, static_width=300, join=join, heads=1
        )
        per_unit = 768 + 600 + (3 if join == "concat" else 768)
        assert width * per_unit <= 0.0025 * 66_362_880 < (width + 8) * per_unit or width == 128


def test_no_width_fits_a_tiny_encoder() -> None:
    with pytest.raises(HydraHeadError, match="width=16"):
        build_model(tiny_bert(50))


def test_contradictory_settings_are_refused() -> None:
    with pytest.raises(HydraHeadError, match="2 heads"):
        KeyphraseConfig(width=7, num_expansion_heads=2)
    with pytest.raises(HydraHeadError, match="known: concat, add"):
        KeyphraseConfig(join="glue")
