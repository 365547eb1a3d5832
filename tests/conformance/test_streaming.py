"""Law 2: one shot = chunked = token by token, at any cut. Law 4: the future changes nothing."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from hydrahead.model.cache import HydraCache
from hydrahead.model.modeling import HydraForCausalLM
from tiny_hybrids import PLANS, assert_close, left_padded, tiny_hybrid, tokens

LENGTH = 23
CUTS = {
    "one_shot": [LENGTH],
    "token_by_token": [1] * LENGTH,
    "odd_pieces": [7, 1, 1, 9, 2, 3],
    "last_alone": [LENGTH - 1, 1],
    "first_alone": [1, LENGTH - 1],
}


def stream(
    model: HydraForCausalLM,
    ids: Tensor,
    cut: Sequence[int],
    mask: Tensor | None = None,
    cache: HydraCache | None = None,
) -> Tensor:
    """Logits of a row fed in pieces through a cache."""
    cache = cache or HydraCache()
    pieces, start = [], 0
    for size in cut:
        stop = start + size
        seen = None if mask is None else mask[:, :stop]
        pieces.append(model(ids[:, start:stop], attention_mask=seen, past_key_values=cache).logits)
        start = stop
    assert cache.get_seq_length() == ids.shape[1]
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_any_cut_gives_the_same(name: str) -> None:
    model, ids = tiny_hybrid(PLANS[name]), tokens(2, LENGTH)
    expected = model(ids, use_cache=False).logits
    for cut in CUTS.values():
        assert_close(stream(model, ids, cut), expected)


@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_any_cut_gives_the_same_with_padding_and_room(name: str) -> None:
    """Padding ends inside the first, a middle and the last piece; storage is allocated once."""
    model = tiny_hybrid(PLANS[name])
    ids, mask = left_padded((LENGTH, 14, 2))
    real = mask.bool()
    expected = model(ids, attention_mask=mask, use_cache=False).logits[real]
    for cut in (CUTS["token_by_token"], CUTS["odd_pieces"]):
        for capacity in (None, LENGTH + 3):
            actual = stream(model, ids, cut, mask, HydraCache(capacity))
            assert torch.isfinite(actual).all()
            assert_close(actual[real], expected)


@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_a_state_given_is_never_written(name: str) -> None:
    model, ids = tiny_hybrid(PLANS[name]), tokens(2, LENGTH)
    cache = HydraCache()
    model(ids[:, :9], past_key_values=cache)
    before, kept = cache.fork(), cache.fork()
    states = [list(layer) for layer in cache.states]
    model(ids[:, 9:], past_key_values=cache)
    for layer, copies in zip(states, kept.states, strict=True):
        for state, copy in zip(layer, copies, strict=True):
            for key, tensor in copy.tensors().items():
                assert torch.equal(getattr(state, key), tensor), key
    # The fork goes on as the original did.
    again = model(ids[:, 9:], past_key_values=before).logits
    assert_close(again, model(ids, use_cache=False).logits[:, 9:])


@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_a_later_token_changes_nothing_before_it(name: str) -> None:
    model, ids = tiny_hybrid(PLANS[name]), tokens(2, LENGTH)
    expected = model(ids, use_cache=False).logits
    for place in (LENGTH - 1, 11, 1):
        changed = ids.clone()
        changed[:, place:] = (changed[:, place:] + 5) % 60
        actual = model(changed, use_cache=False).logits
        assert_close(actual[:, :place], expected[:, :place], 1e-12)
        assert not torch.allclose(actual[:, place], expected[:, place])
