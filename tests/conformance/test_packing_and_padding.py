"""Law 3: packed documents = separate documents. Law 6: left padding is neutral. With gradients."""

import pytest
import torch
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.cache import HydraCache
from hydrahead.model.modeling import HydraForCausalLM
from tiny_hybrids import MIXED, PLANS, assert_close, left_padded, tiny_hybrid, tokens

DOCUMENTS = (9, 1, 13)
"""One token alone among them: the shortest document there is."""


def packed_positions(lengths: tuple[int, ...]) -> Tensor:
    return torch.cat([torch.arange(length) for length in lengths])[None]


def score(logits: Tensor) -> Tensor:
    """A number that every logit moves differently."""
    weights = torch.linspace(-1, 1, logits.shape[-1], dtype=logits.dtype)
    return (logits * weights).sin().sum()


def gradients(model: HydraForCausalLM, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    return {name: p.grad.clone() for name, p in model.named_parameters()}  # type: ignore[union-attr]


def assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        assert_close(actual[name], gradient, 1e-8)


@pytest.mark.parametrize("name", PLANS)
def test_packed_documents_do_not_see_each_other(name: str) -> None:
    model, ids = tiny_hybrid(PLANS[name]), tokens(2, sum(DOCUMENTS))
    positions = packed_positions(DOCUMENTS)
    packed = model(ids, position_ids=positions).logits
    apart = torch.cat([model(part).logits for part in ids.split(DOCUMENTS, dim=1)], dim=1)
    assert_close(packed, apart)
    assert_same_gradients(gradients(model, score(packed)), gradients(model, score(apart)))


@pytest.mark.parametrize("name", MIXED)
@torch.no_grad()
def test_rows_packed_differently(name: str) -> None:
    model, ids = tiny_hybrid(MIXED[name]), tokens(2, 20)
    lengths = ((3, 17), (14, 6))
    positions = torch.cat([packed_positions(row) for row in lengths])
    packed = model(ids, position_ids=positions).logits
    for row, sizes in enumerate(lengths):
        parts = [model(part).logits for part in ids[row : row + 1].split(sizes, dim=1)]
        assert_close(packed[row : row + 1], torch.cat(parts, dim=1))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_documents_one_by_one(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The route for rows too long for one mask gives what the mask gives."""
    for name in ("full-1-everywhere", "window-0-everywhere", "window-1-everywhere"):
        model = tiny_hybrid(PLANS[name], attn_implementation=attention)
        ids, positions = tokens(2, sum(DOCUMENTS)), packed_positions(DOCUMENTS)
        expected = model(ids, position_ids=positions).logits
        for module in ("full", "window"):
            monkeypatch.setattr(f"hydrahead.mixers.{module}.DENSE_TOKENS", 4)
        monkeypatch.setattr("hydrahead.mixers.window.MIN_BLOCK_TOKENS", 3)
        assert_close(model(ids, position_ids=positions).logits, expected)
        monkeypatch.undo()


@pytest.mark.parametrize("name", PLANS)
def test_left_padding_is_neutral(name: str) -> None:
    model = tiny_hybrid(PLANS[name])
    lengths = (23, 16, 1)
    ids, mask = left_padded(lengths)
    padded = model(ids, attention_mask=mask).logits
    assert torch.isfinite(padded).all()
    alone = [model(ids[row : row + 1, -n:]).logits for row, n in enumerate(lengths)]
    for row, (length, logits) in enumerate(zip(lengths, alone, strict=True)):
        assert_close(padded[row : row + 1, -length:], logits)
    actual = gradients(model, score(padded[mask.bool()]))
    expected = gradients(model, score(torch.cat([logits[0] for logits in alone])))
    assert_same_gradients(actual, expected)


@pytest.mark.parametrize("name", MIXED)
@torch.no_grad()
def test_what_lies_in_the_padding_does_not_matter(name: str) -> None:
    model = tiny_hybrid(MIXED[name])
    ids, mask = left_padded()
    other = torch.where(mask.bool(), ids, (ids + 7) % 60)
    first, second = (model(x, attention_mask=mask).logits[mask.bool()] for x in (ids, other))
    assert_close(first, second, 1e-12)


def test_packed_rows_with_a_cache_are_refused() -> None:
    model, ids = tiny_hybrid(PLANS["own-window"]), tokens(2, 20)
    positions = packed_positions((3, 17))
    for cache in ({"use_cache": True}, {"past_key_values": HydraCache()}):
        with pytest.raises(HydraHeadError, match="packed rows"):
            model(ids, position_ids=positions, **cache)


def test_a_mask_that_contradicts_the_cache_is_refused() -> None:
    model, (ids, mask) = tiny_hybrid(PLANS["own-window"]), left_padded()
    cache = HydraCache()
    model(ids[:, :20], attention_mask=mask[:, :20], past_key_values=cache)
    with pytest.raises(HydraHeadError, match="cached tokens as padding"):
        model(ids[:, 20:], attention_mask=torch.ones_like(mask), past_key_values=cache)


@torch.no_grad()
def test_a_cache_remembers_padding_when_the_mask_is_left_out() -> None:
    model, (ids, mask) = tiny_hybrid(PLANS["own-window"]), left_padded()
    expected = model(ids, attention_mask=mask).logits[:, 20:]
    cache = HydraCache()
    model(ids[:, :20], attention_mask=mask[:, :20], past_key_values=cache)
    assert_close(model(ids[:, 20:], past_key_values=cache).logits, expected)
