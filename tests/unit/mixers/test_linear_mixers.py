"""Gated delta and lightning heads: how they start, and that what must not matter does not."""

import dataclasses
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hydrahead.mixers.contract import HeadMixer, MixContext
from hydrahead.plan.assignment import HeadGroup
from hydrahead.plan.specs.base import HeadShape
from unit.mixers.linear_cases import (
    HIDDEN,
    MIXERS,
    SPECS,
    WIDTH,
    build,
    context,
    cut,
    shape,
    teacher_heads,
)

ALL = pytest.mark.parametrize("name", list(SPECS))
TOKENS = 21


def hidden_states(batch: int = 2, tokens: int = TOKENS) -> Tensor:
    return torch.randn(batch, tokens, HIDDEN, dtype=torch.float64, requires_grad=True)


def rows(batch: int = 2, tokens: int = TOKENS, **settings: Tensor) -> MixContext:
    return context(torch.arange(tokens).expand(batch, -1), **settings)


def empty_state(mixer: HeadMixer, batch: int = 2, dtype: torch.dtype = torch.float64):
    return mixer.init_state(batch, capacity=None, device=torch.device("cpu"), dtype=dtype)


def gradients(mixer: HeadMixer, out: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    """Gradients of a fixed random projection of `out`; none may be missing."""
    weights = torch.randn(
        out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    wanted = {"hidden": hidden, **dict(mixer.named_parameters())}
    found = torch.autograd.grad((out * weights).sum(), list(wanted.values()))
    return dict(zip(wanted, found, strict=True))


@ALL
@pytest.mark.parametrize("cuts", [[1], [8, 9, 10], list(range(1, TOKENS))])
def test_in_pieces_equals_in_one(name: str, cuts: list[int]) -> None:
    mixer, hidden, whole = build(name), hidden_states(), rows()
    with torch.no_grad():
        expected, _ = mixer(hidden, whole, None)
        state, outputs = empty_state(mixer), []
        for start, stop in zip([0, *cuts], [*cuts, TOKENS], strict=True):
            out, state = mixer(hidden[:, start:stop], cut(whole, start, stop), state)
            outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, dim=1), expected, rtol=1e-9, atol=1e-9)


@ALL
def test_without_a_state_none_comes_back(name: str) -> None:
    mixer, hidden = build(name), hidden_states()
    out, state = mixer(hidden, rows(), None)
    assert state is None
    assert out.shape == (2, TOKENS, 4, WIDTH)
    with_state, state = mixer(hidden, rows(), empty_state(mixer))
    assert state is not None
    assert torch.equal(out, with_state)


@ALL
@pytest.mark.parametrize("padding", ["left", "right", "inside"])
def test_padding_is_neutral(name: str, padding: str) -> None:
    """Outputs, gradients and the state are those of the row without its padding."""
    mixer, hidden = build(name), hidden_states(batch=1)
    expected, expected_state = mixer(hidden, rows(batch=1), empty_state(mixer, 1))
    places = {
        "left": list(range(4, 4 + TOKENS)),
        "right": list(range(TOKENS)),
        "inside": [*range(6), *range(10, 4 + TOKENS)],
    }[padding]
    index = torch.tensor(places)
    padded = 5.0 * torch.randn(1, TOKENS + 4, HIDDEN, dtype=torch.float64)
    padded = padded.index_copy(1, index, hidden)
    valid = torch.zeros(1, TOKENS + 4, dtype=torch.bool)
    valid[0, index] = True
    positions = (valid.cumsum(-1) - 1).clamp_min(0)
    out, state = mixer(padded, context(positions, valid=valid), empty_state(mixer, 1))
    torch.testing.assert_close(out[:, index], expected, rtol=1e-9, atol=1e-9)
    for key, value in state.tensors().items():
        torch.testing.assert_close(value, expected_state.tensors()[key], rtol=1e-9, atol=1e-9)
    theirs = gradients(mixer, expected, hidden)
    for key, value in gradients(mixer, out[:, index], hidden).items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-8, atol=1e-8, msg=key)


@ALL
def test_padding_in_a_later_piece_is_neutral_too(name: str) -> None:
    """A batch that goes on where one row had padding at its end: nothing is lost or aged."""
    mixer, hidden = build(name), hidden_states()
    valid = torch.ones(2, TOKENS, dtype=torch.bool)
    valid[0, 5:9] = False
    positions = (valid.cumsum(-1) - 1).clamp_min(0)
    whole = context(positions, valid=valid)
    with torch.no_grad():
        state, outputs = empty_state(mixer), []
        for start, stop in ((0, 7), (7, 8), (8, TOKENS)):
            out, state = mixer(hidden[:, start:stop], cut(whole, start, stop), state)
            outputs.append(out)
        kept = valid[0]
        single = context(positions[:1, kept])
        expected, _ = mixer(hidden[:1, kept], single, None)
    torch.testing.assert_close(torch.cat(outputs, dim=1)[:1, kept], expected, rtol=1e-9, atol=1e-9)


@ALL
def test_packed_documents_equal_separate_ones(name: str) -> None:
    mixer, hidden = build(name), hidden_states()
    lengths = ((6, 1, 14), (20, 1))
    documents = torch.tensor([[i for i, n in enumerate(row) for _ in range(n)] for row in lengths])
    positions = torch.tensor([[p for n in row for p in range(n)] for row in lengths])
    packed, _ = mixer(hidden, context(positions, documents=documents), None)
    separate = []
    for row, row_lengths in enumerate(lengths):
        borders = torch.tensor((0, *row_lengths)).cumsum(0).tolist()
        pieces = [
            mixer(hidden[row : row + 1, a:b], context(positions[row : row + 1, a:b]), None)[0]
            for a, b in pairwise(borders)
        ]
        separate.append(torch.cat(pieces, dim=1))
    expected = torch.cat(separate)
    torch.testing.assert_close(packed, expected, rtol=1e-9, atol=1e-9)
    theirs = gradients(mixer, expected, hidden)
    for key, value in gradients(mixer, packed, hidden).items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-8, atol=1e-8, msg=key)


@ALL
def test_a_later_token_changes_nothing_before_it(name: str) -> None:
    mixer, hidden = build(name), hidden_states().detach()
    with torch.no_grad():
        before, _ = mixer(hidden, rows(), None)
        changed = hidden.clone()
        changed[:, 13:] += 1.0
        after, _ = mixer(changed, rows(), None)
    assert torch.equal(before[:, :13], after[:, :13])
    assert not torch.equal(before[:, 13:], after[:, 13:])


@ALL
def test_row_layout_is_all_it_takes_to_permute_groups(name: str) -> None:
    groups = shape().groups
    mixer, other = build(name), build(name, shape(groups[::-1]))
    with torch.no_grad():
        for key, parameter in other.named_parameters():
            value = mixer.get_parameter(key)
            if key in mixer.row_layout:
                value = value.unflatten(0, (2, -1)).flip(0).flatten(0, 1)
            parameter.copy_(value)
        hidden = hidden_states()
        expected, _ = mixer(hidden, rows(), None)
        out, _ = other(hidden, rows(), None)
    permuted = expected.unflatten(2, (2, 2)).flip(2).flatten(2, 3)
    torch.testing.assert_close(out, permuted, rtol=1e-12, atol=1e-12)


@ALL
def test_row_layout_names_parameters_and_divides_them(name: str) -> None:
    mixer = build(name)
    heads = {"q_head": mixer.shape.num_heads, "kv_head": mixer.shape.num_groups}
    parameters = dict(mixer.named_parameters())
    for key, parameter in parameters.items():
        if key in mixer.row_layout:
            assert parameter.shape[0] % heads[mixer.row_layout[key]] == 0, key
        else:
            assert key.endswith("_norm.weight"), f"{key} is shared by all heads"


@ALL
def test_state_bytes_equal_the_plans_cost(name: str) -> None:
    mixer = MIXERS[SPECS[name].name](SPECS[name], shape())
    heads = HeadShape(num_groups=2, num_heads=4, head_dim=WIDTH, hidden_size=HIDDEN)
    for dtype in (torch.bfloat16, torch.float32):
        state = empty_state(mixer, batch=3, dtype=dtype)
        cost = mixer.spec.state_bytes(heads, 1000, dtype.itemsize)
        assert state.nbytes() == 3 * cost
        model = mixer.to(dtype)
        hidden = torch.randn(3, 5, HIDDEN, dtype=dtype)
        with torch.no_grad():
            _, after = model(hidden, rows(batch=3, tokens=5, dtype=dtype), state)
        assert after.nbytes() == state.nbytes()
        for key, value in after.tensors().items():
            assert value.dtype == state.tensors()[key].dtype, key


@ALL
def test_forward_leaves_state_and_hidden_alone(name: str) -> None:
    mixer, hidden = build(name), hidden_states().detach()
    for tokens in (1, TOKENS):
        with torch.no_grad():
            _, state = mixer(hidden, rows(), empty_state(mixer))
            before = {key: value.clone() for key, value in state.tensors().items()}
            copy = hidden.clone()
            _, after = mixer(hidden[:, :tokens], cut(rows(), 0, tokens), state)
        assert torch.equal(hidden, copy)
        for key, value in state.tensors().items():
            assert torch.equal(value, before[key]), key
            assert after.tensors()[key].data_ptr() != value.data_ptr(), key


@ALL
def test_states_reorder_and_fork_without_aliases(name: str) -> None:
    mixer, hidden = build(name), hidden_states().detach()
    with torch.no_grad():
        _, state = mixer(hidden, rows(), empty_state(mixer))
    for moved in (state.reorder(torch.tensor([1, 1, 0])), state.fork()):
        for key, value in moved.tensors().items():
            assert value.data_ptr() != state.tensors()[key].data_ptr()
    twice = state.reorder(torch.tensor([1, 1]))
    for key, value in twice.tensors().items():
        assert torch.equal(value[0], state.tensors()[key][1])


@ALL
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("attention_bias", [True, False])
def test_starts_from_the_teacher_without_randomness(
    name: str, qk_norm: bool, attention_bias: bool
) -> None:
    mixer_shape = shape(qk_norm=qk_norm, attention_bias=attention_bias)
    heads = teacher_heads(mixer_shape)
    started = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        mixer = MIXERS[SPECS[name].name](SPECS[name], mixer_shape)
        mixer.init_from_teacher(heads)
        started.append(mixer.state_dict())
    for key, value in started[0].items():
        assert torch.equal(value, started[1][key]), key
    assert torch.equal(started[0]["projections.q.weight"], heads.q_weight.flatten(0, 1))
    assert torch.equal(started[0]["projections.v.weight"], heads.v_weight.flatten(0, 1))
    has_norm = qk_norm and SPECS[name].qk_norm
    assert ("projections.q_norm.weight" in started[0]) == has_norm
    if has_norm:
        assert torch.equal(started[0]["projections.k_norm.weight"], heads.k_norm_weight)
    assert ("projections.k.bias" in started[0]) == attention_bias


@ALL
def test_new_parts_start_neutral(name: str) -> None:
    """A fresh mixer computes what it would without convolution and output gate."""
    mixer_shape = shape()
    heads = teacher_heads(mixer_shape)
    spec = SPECS[name]
    bare = {"conv_size": 0, "output_gate": False}
    plain = spec.model_copy(update={k: v for k, v in bare.items() if hasattr(spec, k)})
    hidden = torch.randn(2, TOKENS, HIDDEN)
    outputs = []
    for settings in (spec, plain):
        mixer = MIXERS[spec.name](settings, mixer_shape)
        mixer.init_from_teacher(heads)
        with torch.no_grad():
            outputs.append(mixer(hidden, rows(dtype=torch.float32), None)[0])
    assert torch.equal(*outputs)


def test_gates_stay_fp32_and_start_as_a_slow_decay() -> None:
    mixer = MIXERS["gated_delta"](SPECS["gated_delta"], shape())
    gates = mixer.gates
    assert all(p.dtype == torch.float32 for p in gates.parameters())
    log_decay, beta = gates(torch.randn(2, 3, HIDDEN, dtype=torch.bfloat16))
    assert log_decay.dtype == beta.dtype == torch.float32
    decay = log_decay.exp()[0, 0]
    assert ((decay > 0.93) & (decay < 0.9991)).all()
    assert decay[0] < decay[1], "later slots remember longer"
    torch.testing.assert_close(beta, torch.full_like(beta, 0.5))
    wide = MIXERS["gated_delta"](SPECS["gated_delta_paper"], shape()).gates
    torch.testing.assert_close(wide(torch.randn(2, 3, HIDDEN))[1], beta)


def test_a_groups_start_depends_on_its_slots_alone() -> None:
    both = MIXERS["gated_delta"](SPECS["gated_delta"], shape())
    one = MIXERS["gated_delta"](SPECS["gated_delta"], shape((shape().groups[1],)))
    assert torch.equal(both.gates.dt_bias[1:], one.gates.dt_bias)


def test_lightning_decays_by_teacher_slot() -> None:
    single = shape(tuple(HeadGroup(kv_head=q // 2, q_heads=(q,)) for q in (0, 3, 7)))
    mixer = MIXERS["lightning"](SPECS["lightning"], single)
    expected = torch.tensor([-(2.0**-1), -(2.0**-4), -(2.0**-8)])
    torch.testing.assert_close(mixer.log_decay(torch.device("cpu")), expected)
    with torch.inference_mode():
        pair = MIXERS["lightning"](SPECS["lightning"], shape())
        found = pair.log_decay(torch.device("cpu"))
    assert not found.is_inference()
    torch.testing.assert_close(found, torch.tensor([-(2.0**-1.5), -(2.0**-5.5)]))
    assert pair.to(torch.bfloat16).log_decay(torch.device("cpu")).dtype == torch.float32


@ALL
def test_every_parameter_gets_a_finite_gradient_from_the_start(name: str) -> None:
    mixer_shape = shape()
    mixer = MIXERS[SPECS[name].name](SPECS[name], mixer_shape).double()
    heads = teacher_heads(mixer_shape)
    mixer.init_from_teacher(heads)
    hidden = hidden_states()
    for key, value in gradients(mixer, mixer(hidden, rows(), None)[0], hidden).items():
        assert value.isfinite().all(), key
        learns_nothing_yet = key == "output_gate.bias" or key == "projections.k.bias"
        assert value.abs().max() > 0 or learns_nothing_yet, key


@ALL
def test_bf16_model_stays_close_to_fp32(name: str) -> None:
    mixer_shape = shape()
    mixer = MIXERS[SPECS[name].name](SPECS[name], mixer_shape)
    mixer.init_from_teacher(teacher_heads(mixer_shape))
    hidden = torch.randn(2, TOKENS, HIDDEN)
    with torch.no_grad():
        expected, _ = mixer(hidden, rows(dtype=torch.float32), None)
        narrow = mixer.to(torch.bfloat16)
        out, _ = narrow(hidden.bfloat16(), rows(dtype=torch.bfloat16), None)
    assert out.dtype == torch.bfloat16
    error = (out.float() - expected).norm() / expected.norm()
    assert error < 0.03


@ALL
def test_a_row_of_padding_alone_is_harmless(name: str) -> None:
    mixer, hidden = build(name), hidden_states()
    valid = torch.ones(2, TOKENS, dtype=torch.bool)
    valid[0] = False
    state = empty_state(mixer)
    out, after = mixer(hidden, rows(valid=valid), state)
    assert out.isfinite().all()
    for key, value in after.tensors().items():
        assert torch.equal(value[0], state.tensors()[key][0]), key
    for value in gradients(mixer, out, hidden).values():
        assert value.isfinite().all()


def test_a_smaller_mixer_can_be_cut_from_a_twin() -> None:
    """A kv_head twin cut to one of its groups gives that group's outputs."""
    twin, small = build("gated_delta"), build("gated_delta", shape((shape().groups[1],)))
    with torch.no_grad():
        for key, parameter in small.named_parameters():
            value = twin.get_parameter(key)
            if key in twin.row_layout:
                value = value.unflatten(0, (2, -1))[1]
            parameter.copy_(value)
    hidden = hidden_states()
    expected, _ = twin(hidden, rows(), None)
    out, _ = small(hidden, rows(), None)
    torch.testing.assert_close(out, expected[:, :, 2:], rtol=1e-12, atol=1e-12)


def test_states_are_frozen() -> None:
    state = empty_state(build("lightning"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.recurrent = state.recurrent  # type: ignore[misc]


def test_compiles_in_one_graph() -> None:
    """In a process of its own, because the run-time shape checks of the tests break graphs."""
    script = Path(__file__).with_name("compile_linear.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
