"""The gated delta rule: both forms against the equation in fp64, and what must not matter."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hydrahead.kernels.gated_delta.reference import gated_delta_chunked, gated_delta_recurrent
from unit.kernels.kernel_cases import assert_same, gated_delta_inputs, gradients, naive_gated_delta

Form = Callable[..., tuple[Tensor, Tensor]]
FORMS = pytest.mark.parametrize("form", [gated_delta_chunked, gated_delta_recurrent])


@FORMS
@pytest.mark.parametrize("tokens", [1, 2, 7, 16, 17])
@pytest.mark.parametrize("group_size", [1, 3])
def test_equals_the_equation(form: Form, tokens: int, group_size: int) -> None:
    inputs = gated_delta_inputs(tokens=tokens, group_size=group_size, value_width=3, beta_range=2.0)
    theirs = naive_gated_delta(**inputs, scale=0.7)
    assert_same(form(**inputs, scale=0.7, chunk_size=8), theirs, inputs, 1e-11)


@pytest.mark.parametrize("chunk_size", [1, 3, 16, 64, 1000])
def test_any_chunk_size_gives_the_same(chunk_size: int) -> None:
    inputs = gated_delta_inputs(tokens=65)
    theirs = gated_delta_recurrent(**inputs, scale=1.0)
    ours = gated_delta_chunked(**inputs, scale=1.0, chunk_size=chunk_size)
    assert_same(ours, theirs, inputs, 1e-11)


@FORMS
def test_gradcheck(form: Form) -> None:
    inputs = gated_delta_inputs(batch=1, tokens=5, groups=1, width=2, beta_range=2.0)

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(inputs, tensors, strict=True))
        return form(**named, scale=0.5, chunk_size=2)

    assert torch.autograd.gradcheck(run, tuple(inputs.values()))


@FORMS
@pytest.mark.parametrize("chunk_size", [4, 64])
def test_packed_documents_equal_separate_ones(form: Form, chunk_size: int) -> None:
    inputs = gated_delta_inputs(batch=2, tokens=21)
    lengths = [[5, 1, 15], [8, 8, 5]]
    documents = torch.tensor(
        [[i for i, n in enumerate(row, start=3) for _ in range(n)] for row in lengths]
    )
    packed = form(**inputs, scale=1.0, documents=documents, chunk_size=chunk_size)
    outputs, states = [], []
    for row, row_lengths in enumerate(lengths):
        pieces, start = [], 0
        for length in row_lengths:
            part = {
                name: x[row : row + 1, start : start + length]
                for name, x in inputs.items()
                if name != "initial_state"
            }
            first = inputs["initial_state"][row : row + 1] if start == 0 else None
            out, state = form(**part, initial_state=first, scale=1.0, chunk_size=chunk_size)
            pieces.append(out)
            start += length
        outputs.append(torch.cat(pieces, dim=1))
        states.append(state)
    assert_same(packed, (torch.cat(outputs), torch.cat(states)), inputs, 1e-11)
    theirs = naive_gated_delta(**inputs, scale=1.0, documents=documents)
    assert_same(packed, theirs, inputs, 1e-11)


@pytest.mark.parametrize("cuts", [[1], [7, 8], [20, 21, 22, 23], [64]])
def test_a_row_in_pieces_equals_the_row(cuts: list[int]) -> None:
    inputs = gated_delta_inputs(tokens=70)
    theirs = gated_delta_chunked(**inputs, scale=1.0)
    state, outputs = inputs["initial_state"], []
    for start, stop in zip([0, *cuts], [*cuts, 70], strict=True):
        part = {name: x[:, start:stop] for name, x in inputs.items() if name != "initial_state"}
        form = gated_delta_recurrent if stop - start == 1 else gated_delta_chunked
        out, state = form(**part, initial_state=state, scale=1.0, chunk_size=16)
        outputs.append(out)
    assert_same((torch.cat(outputs, dim=1), state), theirs, inputs, 1e-11)


@FORMS
def test_groups_equal_repeated_keys_and_values(form: Form) -> None:
    inputs = gated_delta_inputs(tokens=19, groups=2, group_size=4)
    ours = form(**inputs, scale=1.0, chunk_size=8)
    repeated = {
        name: x if name == "q" else x.repeat_interleave(4, dim=1 if name == "initial_state" else 2)
        for name, x in inputs.items()
    }
    out, state = form(**repeated, scale=1.0, chunk_size=8)
    for copy in range(4):
        torch.testing.assert_close(ours[1], state[:, copy::4], rtol=1e-12, atol=1e-12)
    assert_same(ours, (out, state[:, ::4]), inputs, 1e-11)


def test_a_later_token_changes_nothing_before_it() -> None:
    inputs = gated_delta_inputs(tokens=40)
    with torch.no_grad():
        before, _ = gated_delta_chunked(**inputs, scale=1.0, chunk_size=16)
        for name in ("q", "k", "v", "log_decay", "beta"):
            changed = {**inputs, name: inputs[name].clone()}
            changed[name][:, 23:] *= 1.7
            after, _ = gated_delta_chunked(**changed, scale=1.0, chunk_size=16)
            assert torch.equal(before[:, :23], after[:, :23])
            assert not torch.equal(before[:, 23:], after[:, 23:])


@pytest.mark.parametrize("form", [gated_delta_chunked, gated_delta_recurrent])
@pytest.mark.parametrize("log_decay", [-1e4, -50.0, -1e-7, 0.0])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_extreme_gates_stay_finite(form: Form, log_decay: float, beta: float) -> None:
    inputs = gated_delta_inputs(tokens=70, dtype=torch.float32)
    inputs["log_decay"] = torch.full_like(inputs["log_decay"], log_decay).requires_grad_()
    inputs["beta"] = torch.full_like(inputs["beta"], beta).requires_grad_()
    documents = torch.arange(70).div(33, rounding_mode="floor").expand(2, -1)
    for ids in (None, documents):
        results = form(**inputs, scale=1.0, documents=ids)
        found = gradients(results, inputs)
        for name, x in {"out": results[0], "state": results[1], **found}.items():
            assert x.isfinite().all(), name


def test_mixed_decays_keep_their_digits_in_fp32() -> None:
    """Almost no decay after a token that forgets everything: the chunk's sums are large then."""
    inputs = gated_delta_inputs(tokens=64)
    with torch.no_grad():
        inputs["log_decay"].fill_(-1e-3)
        inputs["log_decay"][:, ::5] = -300.0
    narrow = {name: x.detach().float() for name, x in inputs.items()}
    out, _ = gated_delta_chunked(**narrow, scale=1.0)
    exact, _ = naive_gated_delta(**inputs, scale=1.0)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=3e-6)


@FORMS
def test_identical_keys_are_solved_stably(form: Form) -> None:
    """The hardest system: every key the same, and beta 2, which flips the state every token."""
    inputs = gated_delta_inputs(tokens=256, beta_range=2.0)
    with torch.no_grad():
        inputs["k"][:] = inputs["k"][:, :1]
        inputs["beta"].fill_(2.0)
        inputs["log_decay"].zero_()
    narrow = {name: x.detach().float() for name, x in inputs.items()}
    out, _ = form(**narrow, scale=1.0)
    exact, _ = gated_delta_recurrent(**inputs, scale=1.0)
    size = float(exact.detach().abs().max())
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-5 * size)


@FORMS
def test_inputs_are_left_alone(form: Form) -> None:
    inputs = gated_delta_inputs(tokens=33)
    before = {name: (x.detach().clone(), x._version) for name, x in inputs.items()}
    out, state = form(**inputs, scale=1.0)
    gradients((out, state), inputs)
    for name, x in inputs.items():
        copy, version = before[name]
        assert torch.equal(x, copy), name
        assert x._version == version, name
    assert state.data_ptr() != inputs["initial_state"].data_ptr()


@FORMS
def test_bf16_computes_in_fp32(form: Form) -> None:
    inputs = {name: x.detach() for name, x in gated_delta_inputs(tokens=40).items()}
    rounded = {name: x.bfloat16() for name, x in inputs.items() if name in ("q", "k", "v")}
    gates = {name: x.float() for name, x in inputs.items() if name not in rounded}
    out, state = form(**rounded, **gates, scale=1.0)
    assert out.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    wide = {name: x.double() for name, x in {**rounded, **gates}.items()}
    exact, exact_state = naive_gated_delta(**wide, scale=1.0)
    torch.testing.assert_close(state.double(), exact_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.double(), exact, rtol=1e-2, atol=1e-5)


def test_agrees_with_transformers() -> None:
    """An independent implementation of the same equation (Qwen3-Next's torch path)."""
    module = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    inputs = gated_delta_inputs(tokens=150, group_size=1, width=16, dtype=torch.float32)
    theirs = module.torch_chunk_gated_delta_rule(
        inputs["q"],
        inputs["k"],
        inputs["v"],
        g=inputs["log_decay"],
        beta=inputs["beta"],
        initial_state=inputs["initial_state"],
        output_final_state=True,
    )
    assert_same(gated_delta_chunked(**inputs, scale=16**-0.5), theirs, inputs, 2e-5)
