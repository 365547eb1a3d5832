"""Law 9: states reorder, copy and select rows, and never alias what they were made from."""

from collections.abc import Callable

import pytest
import torch

from hydrahead.model.cache import HydraCache
from tiny_hybrids import PLANS, assert_close, left_padded, tiny_hybrid

CHANGES: dict[str, tuple[Callable[[HydraCache], None], list[int]]] = {
    "reorder": (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
    "repeat": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
    "select": (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
    "select_by_mask": (
        lambda cache: cache.batch_select_indices(torch.tensor([True, False, True])),
        [0, 2],
    ),
}


@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_rows_go_where_they_are_sent(name: str) -> None:
    model, (ids, mask) = tiny_hybrid(PLANS[name]), left_padded((17, 12, 3))
    expected = model(ids, attention_mask=mask).logits[:, 13:]
    for capacity in (None, 20):
        filled = HydraCache(capacity)
        model(ids[:, :13], attention_mask=mask[:, :13], past_key_values=filled)
        for change, rows in CHANGES.values():
            cache = filled.fork()
            change(cache)
            for start, stop in ((13, 14), (14, 17)):
                logits = model(
                    ids[rows, start:stop],
                    attention_mask=mask[rows, :stop],
                    past_key_values=cache,
                ).logits
                real = mask[rows, start:stop].bool()
                assert_close(logits[real], expected[rows, start - 13 : stop - 13][real])


@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_copies_share_no_memory(name: str) -> None:
    model, (ids, mask) = tiny_hybrid(PLANS[name]), left_padded((17, 12, 3))
    for capacity in (None, 20):
        cache = HydraCache(capacity)
        model(ids, attention_mask=mask, past_key_values=cache)
        for layer in cache.states:
            for state in layer:
                same = torch.arange(3)
                for copy in (state.fork(), state.reorder(same)):
                    assert copy.nbytes() == state.nbytes()
                    for key, tensor in copy.tensors().items():
                        if tensor.numel():
                            assert tensor.data_ptr() != getattr(state, key).data_ptr(), key
                            assert torch.equal(tensor, getattr(state, key))


@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_tokens_are_dropped_or_it_says_it_cannot(name: str) -> None:
    from hydrahead.core.errors import HydraHeadError

    model, (ids, mask) = tiny_hybrid(PLANS[name]), left_padded((17, 12, 3))
    expected = model(ids, attention_mask=mask).logits[:, 9:]
    for capacity in (None, 20):
        cache = HydraCache(capacity)
        model(ids[:, :13], attention_mask=mask[:, :13], past_key_values=cache)
        if not cache.is_croppable:
            with pytest.raises(HydraHeadError, match="cannot drop tokens"):
                cache.crop(-4)
            continue
        cache.crop(-4)
        assert cache.get_seq_length() == 9
        again = model(ids[:, 9:], attention_mask=mask, past_key_values=cache).logits
        assert_close(again, expected)
