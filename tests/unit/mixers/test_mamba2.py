"""Mamba-2 heads: their equations written out, how they start, and what permuting them does."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.mixers.build import build_parallel, mixer_shape
from hydrahead.mixers.contract import MixContext
from hydrahead.mixers.mamba2 import Mamba2Mixer
from hydrahead.mixers.state_gates import LONGEST_STEP, SHORTEST_STEP, StateGates, bias_of_steps
from hydrahead.plan.specs.mamba2 import Mamba2Spec
from hydrahead.plan.table import spec_from_dict

HIDDEN = 10
SHAPE = mixer_shape(
    (),
    hidden_size=HIDDEN,
    head_dim=8,
    num_q_heads=2,
    attention_bias=False,
    qk_norm=False,
    norm_eps=1e-5,
)


def mixer(spec: Mamba2Spec, seed: int = 0) -> Mamba2Mixer:
    torch.manual_seed(seed)
    built = build_parallel(spec, SHAPE).double()
    assert isinstance(built, Mamba2Mixer)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return built


def context(rows: int, length: int) -> MixContext:
    positions = torch.arange(length).expand(rows, -1)
    straight = torch.ones(rows, length, 8, dtype=torch.float64)
    return MixContext(positions=positions, cos=straight, sin=torch.zeros_like(straight))


@torch.no_grad()
def by_hand(m: Mamba2Mixer, hidden: Tensor) -> Tensor:
    """The module's equations, token by token and head by head."""
    s = m.spec
    shared = s.groups * s.state_size
    projected = m.in_proj(s.input_multiplier * hidden)
    z, x, b, c, dt = projected.split((s.width, s.width, shared, shared, s.heads), dim=-1)
    z, dt = z * s.z_multiplier, dt * s.dt_multiplier
    mixed = torch.cat((x * s.x_multiplier, b * s.b_multiplier, c * s.c_multiplier), dim=-1)
    padded = F.pad(mixed, (0, 0, s.conv_size - 1, 0))
    taps = m.conv.weight[:, 0]
    turned = sum(padded[:, i : i + mixed.shape[1]] * taps[:, i] for i in range(s.conv_size))
    turned = F.silu(turned if m.conv.bias is None else turned + m.conv.bias)
    x, b, c = turned.split((s.width, shared, shared), dim=-1)
    step = F.softplus(dt + m.gates.dt_bias).clamp(s.dt_min, s.dt_max or math.inf)
    out = torch.zeros_like(x)
    for row in range(hidden.shape[0]):
        for head in range(s.heads):
            group = head // (s.heads // s.groups)
            rows = slice(group * s.state_size, (group + 1) * s.state_size)
            own = slice(head * s.head_dim, (head + 1) * s.head_dim)
            state = torch.zeros(s.head_dim, s.state_size, dtype=x.dtype)
            rate = m.gates.A_log[head].exp()
            for t in range(hidden.shape[1]):
                size = step[row, t, head]
                written = size * torch.outer(x[row, t, own], b[row, t, rows])
                state = (-size * rate).exp() * state + written
                out[row, t, own] = state @ c[row, t, rows] + m.gates.D[head] * x[row, t, own]
    gate = F.silu(z)
    if s.norm == "after_gate":
        out = norm_by_hand(m, out * gate)
    elif s.norm == "before_gate":
        out = norm_by_hand(m, out) * gate
    else:
        out = out * gate
    return s.output_multiplier * m.out_proj(out)


def norm_by_hand(m: Mamba2Mixer, y: Tensor) -> Tensor:
    assert m.norm is not None
    pieces = [
        piece / (piece.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        for piece in y.chunk(m.spec.groups, dim=-1)
    ]
    return torch.cat(pieces, dim=-1) * m.norm.weight


@pytest.mark.parametrize("index", range(len(Mamba2Spec.examples())))
def test_equals_the_equations(index: int) -> None:
    m = mixer(Mamba2Spec.examples()[index])
    hidden = torch.randn(2, 9, HIDDEN, dtype=torch.float64)
    ours, _ = m(hidden, context(2, 9), None)
    torch.testing.assert_close(ours, by_hand(m, hidden), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_permuting_heads_with_their_weights_changes_nothing() -> None:
    """Law 10 for heads that have no slots: rows of the projection, channels, gates, columns."""
    spec = Mamba2Spec(heads=4, head_dim=3, state_size=5, norm="after_gate")
    first, second = mixer(spec), mixer(spec, seed=1)
    second.load_state_dict(first.state_dict())
    order = [2, 0, 3, 1]

    def moved(x: Tensor, dim: int = 0) -> Tensor:
        return (
            x.unflatten(dim, (4, -1)).index_select(dim, torch.tensor(order)).flatten(dim, dim + 1)
        )

    width, shared = spec.width, spec.state_size
    z, x, rest, dt = first.in_proj.weight.split((width, width, 2 * shared, 4))
    second.in_proj.weight.copy_(torch.cat((moved(z), moved(x), rest, moved(dt))))
    for name in ("weight", "bias"):
        values = getattr(first.conv, name)
        getattr(second.conv, name)[:width] = moved(values[:width])
    for name in ("A_log", "dt_bias", "D"):
        getattr(second.gates, name).copy_(getattr(first.gates, name)[order])
    assert first.norm is not None
    assert second.norm is not None
    second.norm.weight.copy_(moved(first.norm.weight))
    second.out_proj.weight.copy_(moved(first.out_proj.weight, dim=1))
    hidden = torch.randn(2, 9, HIDDEN, dtype=torch.float64)
    one, two = (m(hidden, context(2, 9), None)[0] for m in (first, second))
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


def test_steps_start_log_spaced_in_mambas_range() -> None:
    steps, log_decay = StateGates(6)(torch.zeros(1, 1, 6))
    assert SHORTEST_STEP < steps.min() < steps.max() < LONGEST_STEP
    ratios = steps[0, 0, 1:] / steps[0, 0, :-1]
    torch.testing.assert_close(ratios, ratios[:1].expand(5), rtol=1e-4, atol=0)
    torch.testing.assert_close(log_decay, -steps * torch.arange(1.0, 7.0), rtol=1e-5, atol=0)
    wanted = torch.tensor([1e-4, 1e-3, 0.5, 3.0])
    torch.testing.assert_close(F.softplus(bias_of_steps(wanted)), wanted, rtol=1e-4, atol=0)


@torch.no_grad()
def test_beside_a_teacher_the_output_is_zero() -> None:
    m = mixer(Mamba2Spec(heads=2, head_dim=3, state_size=4, output_bias=True))
    m.init_beside_teacher()
    out, _ = m(torch.randn(1, 5, HIDDEN, dtype=torch.float64), context(1, 5), None)
    assert (out == 0).all()


@torch.no_grad()
def test_gates_and_state_are_fp32_in_a_narrow_model() -> None:
    """A step of 1e-3 added to a state of 1 is lost in bf16."""
    m = build_parallel(Mamba2Spec(heads=2, head_dim=3, state_size=4), SHAPE).bfloat16()
    m.gates.float()
    state = m.init_state(1, capacity=None, device=torch.device("cpu"), dtype=torch.bfloat16)
    hidden = torch.randn(1, 5, HIDDEN, dtype=torch.bfloat16)
    out, after = m(hidden, context(1, 5), state)
    assert out.dtype == torch.bfloat16
    assert after.recurrent.dtype == torch.float32
    assert after.conv.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"groups": 3}, "not a multiple of groups"),
        ({"dt_min": 0.5, "dt_max": 0.1}, "below dt_min"),
        ({"heads": 0}, "heads"),
        ({"hedas": 4}, "did you mean 'heads'?"),
        ({"normalise_output": True}, "normalise_output"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], told: str) -> None:
    base = {"name": "mamba2", "heads": 4, "head_dim": 3, "state_size": 5}
    with pytest.raises(HydraHeadError) as caught:
        spec_from_dict({**base, **settings})
    assert told in str(caught.value)
