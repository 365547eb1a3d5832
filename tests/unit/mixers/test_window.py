"""Window attention: blocks, sinks, rings and padding give what the sum written out gives."""

import itertools

import pytest
import torch
from softmax_cases import HIDDEN, UNEVEN, UNIFORM, build, by_hand, context, projected
from torch import Tensor
from torch.nn import functional

from hydrahead.core.errors import HydraHeadError
from hydrahead.mixers import window
from hydrahead.mixers.attention_base import AttentionMixer
from hydrahead.plan.specs.window import WindowSpec

SETTINGS = [(1, 0), (4, 0), (4, 3), (3, 5), (2, 1), (30, 4)]
"""(window, sinks): no sinks, more sinks than window, a window that covers everything."""
VALID = torch.ones(3, 19, dtype=torch.bool)
VALID[1, :6] = False
VALID[2, :18] = False


def expected(
    mixer: AttentionMixer, hidden: Tensor, valid: Tensor, reach: int, sinks: int
) -> Tensor:
    positions = (valid.long().cumsum(1) - 1).clamp(min=0)
    seen = projected(mixer, hidden, context(positions, valid=valid))

    def may_see(b: int, i: int, j: int) -> bool:
        near = i - j < reach or int(positions[b, j]) < sinks
        return j <= i and near and bool(valid[b, j])

    return by_hand(mixer, *seen, may_see)


@pytest.mark.parametrize("block", [128, 3])
@pytest.mark.parametrize(("reach", "sinks"), SETTINGS)
@torch.no_grad()
def test_equals_the_sum_written_out(
    reach: int, sinks: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "MIN_BLOCK_TOKENS", block)
    monkeypatch.setattr(window, "DENSE_TOKENS", block)
    mixer = build(WindowSpec(window=reach, sinks=sinks), UNEVEN)
    hidden = torch.randn(3, 19, HIDDEN, dtype=torch.float64)
    for valid in (torch.ones_like(VALID), VALID):
        want = expected(mixer, hidden, valid, reach, sinks)
        positions = (valid.long().cumsum(1) - 1).clamp(min=0)
        out, _ = mixer(hidden, context(positions, valid=valid), None)
        torch.testing.assert_close(out[valid], want[valid])
        assert torch.isfinite(out).all()


@pytest.mark.parametrize("capacity", [None, 19, 24])
@pytest.mark.parametrize(("reach", "sinks"), SETTINGS)
@torch.no_grad()
def test_any_cut_gives_the_same(reach: int, sinks: int, capacity: int | None) -> None:
    mixer = build(WindowSpec(window=reach, sinks=sinks), UNEVEN)
    hidden = torch.randn(3, 19, HIDDEN, dtype=torch.float64)
    positions = (VALID.long().cumsum(1) - 1).clamp(min=0)
    kept = torch.where(VALID, positions, -1)
    want = expected(mixer, hidden, VALID, reach, sinks)
    for cut in ((1,) * 19, (19,), (5, 1, 6, 1, 6), (2, 9, 8)):
        state = mixer.init_state(3, capacity=capacity, device=hidden.device, dtype=hidden.dtype)
        pieces, edges = [], [0, *itertools.accumulate(cut)]
        for start, stop in itertools.pairwise(edges):
            where = context(
                positions[:, start:stop],
                valid=VALID[:, start:stop],
                past_positions=kept[:, :start] if start else None,
            )
            out, state = mixer(hidden[:, start:stop], where, state)
            pieces.append(out)
            assert state is not None
            entries = min(stop, reach) + min(stop, sinks)
            assert state.nbytes() == 2 * 3 * len(UNEVEN) * entries * 8 * 8
        torch.testing.assert_close(torch.cat(pieces, 1)[VALID], want[VALID])


@torch.no_grad()
def test_memory_grows_with_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mask and no stretch of keys is longer than a block, its window and the sinks."""
    mixer = build(WindowSpec(window=6, sinks=2), UNIFORM)
    monkeypatch.setattr(window, "MIN_BLOCK_TOKENS", 8)
    sizes = []
    attend = functional.scaled_dot_product_attention

    def watched(q, k, v, attn_mask=None, **settings):  # type: ignore[no-untyped-def]
        sizes.append((attn_mask.shape[-2], attn_mask.shape[-1], k.shape[-2]))
        return attend(q, k, v, attn_mask=attn_mask, **settings)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    hidden = torch.randn(1, 60, HIDDEN, dtype=torch.float64)
    mixer(hidden, context(torch.arange(60)[None]), None)
    assert len(sizes) == 8
    for queries, keys, stored in sizes:
        assert queries <= 8
        assert keys == stored <= 8 + 6 - 1 + 2


@torch.no_grad()
def test_a_ring_may_turn_but_a_short_allocation_may_not_overflow() -> None:
    hidden = torch.randn(1, 12, HIDDEN, dtype=torch.float64)
    small = build(WindowSpec(window=4, sinks=1), UNIFORM)
    state = small.init_state(1, capacity=6, device=hidden.device, dtype=hidden.dtype)
    _, state = small(hidden, context(torch.arange(12)[None]), state)
    assert state is not None
    assert state.nbytes() == 2 * 2 * 5 * 8 * 8
    wide = build(WindowSpec(window=8, sinks=1), UNIFORM)
    state = wide.init_state(1, capacity=6, device=hidden.device, dtype=hidden.dtype)
    with pytest.raises(HydraHeadError, match="allocated for 6 tokens"):
        wide(hidden, context(torch.arange(12)[None]), state)


def test_what_left_the_window_is_gone() -> None:
    mixer = build(WindowSpec(window=4, sinks=1), UNIFORM)
    state = mixer.init_state(1, capacity=None, device=torch.device("cpu"), dtype=torch.float64)
    assert not state.can_truncate
    with pytest.raises(NotImplementedError):
        state.truncate(0)
