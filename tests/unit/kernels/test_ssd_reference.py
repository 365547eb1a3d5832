"""The state-space scan: both forms against the recurrence written out, in fp64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hydrahead.kernels.ssd.products import scan_by_products
from hydrahead.kernels.ssd.reference import ssd_chunked, ssd_recurrent
from unit.kernels.kernel_cases import assert_same, gradients, naive_ssd, ssd_inputs

Form = Callable[..., tuple[Tensor, Tensor]]
FORMS = pytest.mark.parametrize("form", [ssd_chunked, ssd_recurrent])


@FORMS
@pytest.mark.parametrize("tokens", [1, 2, 16, 17])
@pytest.mark.parametrize(("groups", "group_size"), [(1, 1), (1, 4), (3, 2)])
def test_equals_the_equation(form: Form, tokens: int, groups: int, group_size: int) -> None:
    inputs = ssd_inputs(tokens=tokens, groups=groups, group_size=group_size)
    theirs = naive_ssd(**inputs, scale=0.7)
    assert_same(form(**inputs, scale=0.7, chunk_size=8), theirs, inputs, 1e-11)


@FORMS
def test_without_a_state_it_starts_from_zero(form: Form) -> None:
    inputs = ssd_inputs(tokens=9)
    del inputs["initial_state"]
    theirs = naive_ssd(**inputs, scale=1.0)
    assert_same(form(**inputs, scale=1.0, chunk_size=4), theirs, inputs, 1e-11)


@FORMS
def test_packed_documents(form: Form) -> None:
    inputs = ssd_inputs(tokens=40)
    documents = torch.tensor([[0] * 9 + [4] * 1 + [5] * 30, [2] * 24 + [3] * 16])
    ours = form(**inputs, scale=1.0, documents=documents, chunk_size=8)
    assert_same(ours, naive_ssd(**inputs, scale=1.0, documents=documents), inputs, 1e-11)


@pytest.mark.parametrize("cuts", [[1], [7, 8], [20, 21, 22]])
def test_a_row_in_pieces_equals_the_row(cuts: list[int]) -> None:
    inputs = ssd_inputs(tokens=33)
    theirs = ssd_chunked(**inputs, scale=1.0)
    state, outputs = inputs["initial_state"], []
    for start, stop in zip([0, *cuts], [*cuts, 33], strict=True):
        part = {name: x[:, start:stop] for name, x in inputs.items() if name != "initial_state"}
        form = ssd_recurrent if stop - start == 1 else ssd_chunked
        out, state = form(**part, initial_state=state, scale=1.0, chunk_size=4)
        outputs.append(out)
    assert_same((torch.cat(outputs, dim=1), state), theirs, inputs, 1e-11)


@FORMS
def test_gradcheck(form: Form) -> None:
    inputs = ssd_inputs(batch=1, tokens=5, groups=1, width=2, value_width=2)

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return form(**dict(zip(inputs, tensors, strict=True)), scale=0.5, chunk_size=2)

    assert torch.autograd.gradcheck(run, tuple(inputs.values()))


@FORMS
@pytest.mark.parametrize("log_decay", [-1e4, -50.0, 0.0])
def test_extreme_decays_stay_finite(form: Form, log_decay: float) -> None:
    """A fresh Falcon-H1 of transformers decays by exp(-31) per token in its fastest head."""
    inputs = ssd_inputs(tokens=70, dtype=torch.float32)
    decay = torch.full_like(inputs["log_decay"], log_decay).requires_grad_()
    inputs["log_decay"] = decay
    results = form(**inputs, scale=1.0)
    for x in (*results, *gradients(results, inputs).values()):
        assert x.isfinite().all()


def test_narrow_operands_lose_only_their_own_digits() -> None:
    """The training route of matrix products: bf16 operands, fp32 decays and states."""
    inputs = ssd_inputs(tokens=150, groups=1, group_size=4, width=16, value_width=8)
    exact, exact_state = ssd_chunked(**inputs, scale=1.0)
    narrow = {name: x.to(torch.bfloat16) for name, x in inputs.items() if name in ("q", "k", "v")}
    out, state = scan_by_products(
        **narrow,
        log_decay=inputs["log_decay"].float(),
        scale=1.0,
        initial_state=inputs["initial_state"].float(),
        documents=None,
        chunk_size=64,
        operand_dtype=torch.bfloat16,
    )
    assert out.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert (out.double() - exact).norm() < 0.01 * exact.norm()
    assert (state.double() - exact_state).norm() < 0.01 * exact_state.norm()


@FORMS
def test_inputs_are_left_alone(form: Form) -> None:
    inputs = ssd_inputs(tokens=33)
    before = {name: (x.detach().clone(), x._version) for name, x in inputs.items()}
    results = form(**inputs, scale=1.0)
    gradients(results, inputs)
    for name, x in inputs.items():
        assert torch.equal(x, before[name][0]), name
        assert x._version == before[name][1], name
