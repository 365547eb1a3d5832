"""The cache as a container: what it counts, what it refuses."""

import pytest
import torch
from transformers import DynamicCache

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.cache import HydraCache, prepare_cache
from hydrahead.model.cache_name import CACHE_NAME, CACHE_NAMES
from tiny_hybrids import PLANS, assert_close, tiny_hybrid, tokens

PLAN = PLANS["own-window"]


def test_an_empty_cache() -> None:
    cache = HydraCache()
    assert cache.get_seq_length() == cache.nbytes() == len(cache) == 0
    assert cache.batch_size == cache.get_max_cache_shape() == cache.get_max_length() == -1
    assert not cache.is_compileable
    assert not cache.is_initialized
    assert "growing" in repr(cache)
    cache.batch_repeat_interleave(3)
    cache.reorder_cache(torch.tensor([0]))
    assert cache.fork().get_seq_length() == 0


@torch.no_grad()
def test_what_it_counts() -> None:
    model, ids = tiny_hybrid(PLAN), tokens(2, 9)
    cache = HydraCache(16)
    out = model(ids, past_key_values=cache)
    assert out.past_key_values is cache
    assert cache.get_seq_length() == 9
    assert cache.get_mask_sizes(4, 0) == (13, 0)
    assert (cache.batch_size, len(cache), cache.max_cache_len) == (2, 2, 16)
    assert cache.is_initialized
    assert cache.nbytes() > 0
    assert cache.past_positions is not None
    assert cache.past_positions.tolist() == [list(range(9))] * 2
    assert cache.to("cpu") is cache
    cache.reset()
    assert cache.get_seq_length() == cache.nbytes() == 0
    assert_close(model(ids, past_key_values=cache).logits, out.logits)


def test_a_raw_call_makes_a_cache_when_asked() -> None:
    model, ids = tiny_hybrid(PLAN), tokens(2, 9)
    assert isinstance(model(ids, use_cache=True).past_key_values, HydraCache)
    assert isinstance(model(ids).past_key_values, HydraCache)
    assert model(ids, use_cache=False).past_key_values is None
    positions = torch.arange(9)[None]
    assert model(ids, position_ids=positions).past_key_values is None, "rows may be packed"
    assert model(ids, labels=ids).past_key_values is None
    model.train()
    assert model(ids).past_key_values is None


def test_both_of_its_names_are_taken_and_two_caches_are_refused() -> None:
    model, ids = tiny_hybrid(PLAN), tokens(2, 9)
    caches = {name: HydraCache() for name in CACHE_NAMES}
    first, second = (model(ids, **{name: cache}) for name, cache in caches.items())
    assert_close(first.logits, second.logits)
    for output, cache in zip((first, second), caches.values(), strict=True):
        assert getattr(output, CACHE_NAME) is cache
        assert cache.get_seq_length() == 9
    with pytest.raises(HydraHeadError, match="two names of one thing"):
        model(ids, **caches)


def test_foreign_caches_are_refused() -> None:
    model, ids = tiny_hybrid(PLAN), tokens(2, 9)
    with pytest.raises(HydraHeadError, match="DynamicCache cannot hold"):
        model(ids, past_key_values=DynamicCache())
    with pytest.raises(HydraHeadError, match="DynamicCache cannot hold"):
        model.generate(ids, max_new_tokens=2, **{CACHE_NAME: DynamicCache()}, pad_token_id=0)
    with pytest.raises(NotImplementedError):
        HydraCache().update(None, None, 0)


@pytest.mark.parametrize("name", ["quantized", "offloaded", "offloaded_static", "sliding_window"])
def test_other_implementations_are_refused(name: str) -> None:
    with pytest.raises(HydraHeadError, match="use 'dynamic' or 'static'"):
        prepare_cache(name, 10)


def test_known_implementations() -> None:
    assert prepare_cache(None, 10).capacity is prepare_cache("dynamic", 10).capacity is None
    assert prepare_cache("static", 10).capacity == 10


@torch.no_grad()
def test_a_full_cache_says_so_and_is_left_alone() -> None:
    model, ids = tiny_hybrid(PLAN), tokens(2, 9)
    cache = HydraCache(10)
    model(ids, past_key_values=cache)
    with pytest.raises(HydraHeadError, match="allocated for 10 tokens and cannot hold 11"):
        model(ids[:, :2], past_key_values=cache)
    assert cache.get_seq_length() == 9
    again = model(ids[:, :1], past_key_values=cache).logits
    assert_close(again[:, 0], model(torch.cat((ids, ids[:, :1]), 1)).logits[:, -1])


@torch.no_grad()
def test_another_batch_is_refused() -> None:
    model, cache = tiny_hybrid(PLAN), HydraCache()
    model(tokens(2, 9), past_key_values=cache)
    with pytest.raises(HydraHeadError, match="holds 2 rows, the input has 3"):
        model(tokens(3, 1), past_key_values=cache)


@torch.no_grad()
def test_a_forward_that_died_half_way_is_noticed() -> None:
    from hydrahead.model.taps import replace

    model, ids, cache = tiny_hybrid(PLAN), tokens(2, 9), HydraCache()

    def fail(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"), replace(model, {("heads", 1): fail}):
        model(ids, past_key_values=cache)
    with pytest.raises(HydraHeadError, match="did not finish"):
        model(ids, past_key_values=cache)
    cache.reset()
    assert_close(model(ids, past_key_values=cache).logits, model(ids).logits)


@torch.no_grad()
def test_crop_counts_as_transformers_does() -> None:
    """Negative drops so many, positive keeps so many, 0 drops none."""
    model, ids = tiny_hybrid(PLANS["full-0-everywhere"]), tokens(2, 9)
    for number, left in ((-2, 7), (4, 4), (0, 9), (30, 9), (-9, 0)):
        cache = HydraCache()
        model(ids, past_key_values=cache)
        cache.crop(number)
        assert cache.get_seq_length() == left
        rest = model(ids[:, left:], past_key_values=cache).logits if left < 9 else None
        if rest is not None:
            assert_close(rest, model(ids).logits[:, left:])


def test_masks_that_cannot_be_are_refused() -> None:
    model, ids = tiny_hybrid(PLAN), tokens(2, 9)
    with pytest.raises(HydraHeadError, match="two-dimensional"):
        model(ids, attention_mask=torch.ones(2, 1, 9, 9))
    with pytest.raises(HydraHeadError, match=r"shape \(2, 8\)"):
        model(ids, attention_mask=torch.ones(2, 8))
    with pytest.raises(HydraHeadError, match="position_ids have shape"):
        model(ids, position_ids=torch.arange(8)[None])
    with pytest.raises(HydraHeadError, match="one of the two"):
        model()
    with pytest.raises(HydraHeadError, match="does not know output_attentions"):
        model(ids, output_attentions=True)
