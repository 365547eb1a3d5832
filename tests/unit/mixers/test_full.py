"""Full attention: every route gives what the sum written out gives, and expands nothing."""

import math

import pytest
import torch
from softmax_cases import HIDDEN, SINGLE, UNEVEN, UNIFORM, build, by_hand, context, projected
from torch.nn import functional

from hydrahead.core.errors import HydraHeadError
from hydrahead.mixers import full, softmax
from hydrahead.plan.specs.full import FullSpec

GROUPS = {"uniform": UNIFORM, "uneven": UNEVEN, "single": SINGLE}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("groups", GROUPS)
def test_equals_the_sum_written_out(groups: str, attention: str) -> None:
    mixer = build(FullSpec(), GROUPS[groups])
    where = context(torch.arange(7).expand(2, -1), attn_implementation=attention)
    hidden = torch.randn(2, 7, HIDDEN, dtype=torch.float64)
    out, state = mixer(hidden, where, None)
    assert state is None
    expected = by_hand(mixer, *projected(mixer, hidden, where), lambda _b, i, j: j <= i)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_documents_and_padding_by_hand(attention: str) -> None:
    mixer = build(FullSpec(), UNEVEN)
    hidden = torch.randn(2, 6, HIDDEN, dtype=torch.float64)
    documents = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 1, 1]])
    positions = torch.tensor([[0, 1, 0, 1, 2, 0], [0, 0, 1, 2, 3, 4]])
    where = context(positions, documents=documents, attn_implementation=attention)
    out, _ = mixer(hidden, where, None)
    same = documents[:, :, None] == documents[:, None, :]
    seen = projected(mixer, hidden, where)
    expected = by_hand(mixer, *seen, lambda b, i, j: j <= i and bool(same[b, i, j]))
    torch.testing.assert_close(out, expected)

    valid = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()
    positions = (valid.long().cumsum(1) - 1).clamp(min=0)
    where = context(positions, valid=valid, attn_implementation=attention)
    out, _ = mixer(hidden, where, None)
    seen = projected(mixer, hidden, where)
    expected = by_hand(mixer, *seen, lambda b, i, j: j <= i and bool(valid[b, j]))
    torch.testing.assert_close(out[valid], expected[valid])
    assert torch.isfinite(out).all()


def test_no_gradient_is_nan_where_everything_is_padding() -> None:
    mixer = build(FullSpec(), UNEVEN)
    hidden = torch.randn(2, 5, HIDDEN, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]).bool()
    where = context((valid.long().cumsum(1) - 1).clamp(min=0), valid=valid)
    out, _ = mixer(hidden, where, None)
    out.sum().backward()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("masked", [False, True])
def test_the_route_for_cuda_gives_the_same(
    groups: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups as batch with keys of stride 0, which is what kernels without grouped heads get."""
    mixer = build(FullSpec(), GROUPS[groups])
    hidden = torch.randn(2, 9, HIDDEN, dtype=torch.float64)
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[0, :4] = not masked
    where = context(torch.arange(9).expand(2, -1), valid=valid if masked else None)
    results = []
    for reads_groups in (True, False):
        monkeypatch.setattr(softmax, "_reads_groups", lambda *_, yes=reads_groups: yes)
        x = hidden.clone().requires_grad_()
        out, _ = mixer(x, where, None)
        out[valid].sin().sum().backward()
        results.append((out, x.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_long_chunks_go_block_by_block(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    mixer = build(FullSpec(), UNEVEN)
    hidden = torch.randn(2, 30, HIDDEN, dtype=torch.float64)
    valid = torch.ones(2, 30, dtype=torch.bool)
    valid[0, :6] = not padded
    positions = (valid.long().cumsum(1) - 1).clamp(min=0)
    expected, _ = mixer(hidden, context(positions, valid=valid if padded else None), None)

    largest: list[int] = []
    attend = functional.scaled_dot_product_attention

    def watched(q, k, v, attn_mask=None, **settings):  # type: ignore[no-untyped-def]
        largest.append(0 if attn_mask is None else attn_mask.shape[-2] * attn_mask.shape[-1])
        return attend(q, k, v, attn_mask=attn_mask, **settings)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(full, "DENSE_TOKENS", 4)
    state, pieces = mixer.init_state(2, capacity=None, device=hidden.device, dtype=hidden.dtype), []
    for start, stop in ((0, 9), (9, 30)):
        past = torch.where(valid, positions, -1)[:, :start] if start else None
        where = context(
            positions[:, start:stop],
            valid=valid[:, start:stop] if padded and start < 6 else None,
            past_positions=past,
        )
        out, state = mixer(hidden[:, start:stop], where, state)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, 1)[valid], expected[valid])
    assert max(largest) <= 4 * 30


@torch.no_grad()
def test_one_shot_without_padding_needs_no_mask_and_no_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mixer = build(FullSpec(), UNIFORM)
    calls = []
    attend = functional.scaled_dot_product_attention

    def watched(q, k, v, attn_mask=None, **settings):  # type: ignore[no-untyped-def]
        read = math.prod(size for size, step in zip(k.shape, k.stride(), strict=True) if step)
        calls.append((attn_mask, read * k.element_size()))
        return attend(q, k, v, attn_mask=attn_mask, **settings)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    hidden = torch.randn(2, 11, HIDDEN, dtype=torch.float64)
    state = mixer.init_state(2, capacity=16, device=hidden.device, dtype=hidden.dtype)
    where = context(torch.arange(11).expand(2, -1))
    mixer(hidden, where, None)
    _, state = mixer(hidden, where, state)
    past = torch.arange(11).expand(2, -1)
    after = context(torch.full((2, 1), 11), past_positions=past)
    _, state = mixer(hidden[:, :1], after, state)
    assert len(calls) == 3, "one call per group size"
    for mask, read in calls:
        assert mask is None
        assert read <= 2 * 2 * 16 * 8 * 8, "keys of two groups, room for 16 tokens"


@torch.no_grad()
def test_query_scale_and_missing_rotation() -> None:
    """s_t = log_a(t + a), 1 at the first token; without rope the positions do nothing else."""
    hidden = torch.randn(1, 5, HIDDEN, dtype=torch.float64)
    scaled = build(FullSpec(rope=False, log_length_scale=3.0), UNIFORM)
    plain = build(FullSpec(rope=False), UNIFORM)
    plain.load_state_dict(scaled.state_dict())
    positions = torch.tensor([[0, 1, 2, 10, 100]])
    with_scale = projected(scaled, hidden, context(positions))[0]
    without = projected(plain, hidden, context(positions))[0]
    for i, t in enumerate(positions[0].tolist()):
        torch.testing.assert_close(
            with_scale[:, i], without[:, i] * (math.log(t + 3.0) / math.log(3.0))
        )
    assert torch.equal(with_scale[:, 0], without[:, 0])
    assert torch.equal(without, projected(plain, hidden, context(positions + 7))[0])


@torch.no_grad()
def test_a_new_gate_is_exactly_one() -> None:
    from hydrahead.mixers.output_gate import OutputGate

    gate = OutputGate(HIDDEN, 3, 8)
    output, hidden = torch.randn(2, 4, 3, 8), torch.randn(2, 4, HIDDEN)
    assert torch.equal(gate(output, hidden), output)
    gate.weight.normal_()
    gate.bias.normal_()
    expected = torch.sigmoid(hidden @ gate.weight.T + gate.bias) / torch.sigmoid(gate.bias)
    torch.testing.assert_close(gate(output, hidden), output * expected.view(2, 4, 3, 8))
    gate.reset_parameters()
    assert torch.equal(gate(output, hidden), output)


def test_unknown_attention_is_refused_with_what_works() -> None:
    mixer = build(FullSpec(), UNIFORM)
    where = context(torch.arange(4)[None], attn_implementation="flash_attention_2")
    with pytest.raises(HydraHeadError, match="sdpa, eager"):
        mixer(torch.randn(1, 4, HIDDEN, dtype=torch.float64), where, None)


def test_a_full_allocation_says_so() -> None:
    mixer = build(FullSpec(), UNIFORM)
    state = mixer.init_state(1, capacity=3, device=torch.device("cpu"), dtype=torch.float64)
    with pytest.raises(HydraHeadError, match="allocated for 3 tokens"):
        mixer(torch.randn(1, 4, HIDDEN, dtype=torch.float64), context(torch.arange(4)[None]), state)
