"""Fixed-decay linear attention: both forms against the sum over all pairs in fp64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hydrahead.kernels.lightning.reference import lightning_chunked, lightning_recurrent
from unit.kernels.kernel_cases import assert_same, gradients, lightning_inputs, naive_lightning

Form = Callable[..., tuple[Tensor, Tensor]]
FORMS = pytest.mark.parametrize("form", [lightning_chunked, lightning_recurrent])


@FORMS
@pytest.mark.parametrize("tokens", [1, 2, 16, 17])
@pytest.mark.parametrize("group_size", [1, 3])
def test_equals_the_equation(form: Form, tokens: int, group_size: int) -> None:
    inputs = lightning_inputs(tokens=tokens, group_size=group_size)
    theirs = naive_lightning(**inputs, scale=0.7)
    assert_same(form(**inputs, scale=0.7, chunk_size=8), theirs, inputs, 1e-11)


@FORMS
def test_packed_documents(form: Form) -> None:
    inputs = lightning_inputs(tokens=40)
    documents = torch.tensor([[0] * 9 + [4] * 1 + [5] * 30, [2] * 24 + [3] * 16])
    ours = form(**inputs, scale=1.0, documents=documents, chunk_size=8)
    assert_same(ours, naive_lightning(**inputs, scale=1.0, documents=documents), inputs, 1e-11)
    start = 24
    last = {name: x for name, x in inputs.items() if name not in ("log_decay", "initial_state")}
    last = {name: x[1:, start:] for name, x in last.items()}
    out, state = form(**last, log_decay=inputs["log_decay"], scale=1.0)
    torch.testing.assert_close(ours[0][1:, start:], out, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(ours[1][1:], state, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("cuts", [[1], [7, 8], [20, 21, 22]])
def test_a_row_in_pieces_equals_the_row(cuts: list[int]) -> None:
    inputs = lightning_inputs(tokens=33)
    theirs = lightning_chunked(**inputs, scale=1.0)
    state, outputs = inputs["initial_state"], []
    for start, stop in zip([0, *cuts], [*cuts, 33], strict=True):
        part = {name: inputs[name][:, start:stop] for name in ("q", "k", "v")}
        form = lightning_recurrent if stop - start == 1 else lightning_chunked
        out, state = form(
            **part, log_decay=inputs["log_decay"], initial_state=state, scale=1.0, chunk_size=4
        )
        outputs.append(out)
    assert_same((torch.cat(outputs, dim=1), state), theirs, inputs, 1e-11)


@FORMS
def test_tokens_that_are_not_valid_do_not_exist(form: Form) -> None:
    """Wherever they stand: outputs, state and gradients are those of the row without them."""
    inputs = lightning_inputs(batch=1, tokens=20)
    valid = torch.ones(1, 20, dtype=torch.bool)
    valid[0, [0, 1, 7, 8, 9, 19]] = False
    out, state = form(**inputs, scale=1.0, valid=valid, chunk_size=8)
    short = {name: inputs[name][:, valid[0]] for name in ("q", "k", "v")}
    rest = {name: inputs[name] for name in ("log_decay", "initial_state")}
    theirs = form(**short, **rest, scale=1.0, chunk_size=8)
    assert_same((out[:, valid[0]], state), theirs, inputs, 1e-11)


@FORMS
def test_a_row_without_valid_tokens_keeps_its_state(form: Form) -> None:
    inputs = lightning_inputs(tokens=5)
    valid = torch.tensor([[False] * 5, [True] * 5])
    _, state = form(**inputs, scale=1.0, valid=valid)
    assert torch.equal(state[0], inputs["initial_state"][0])
    assert not torch.equal(state[1], inputs["initial_state"][1])


@FORMS
def test_gradcheck(form: Form) -> None:
    inputs = lightning_inputs(batch=1, tokens=5, groups=1, width=2)
    log_decay = inputs.pop("log_decay")

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(inputs, tensors, strict=True))
        return form(**named, log_decay=log_decay, scale=0.5, chunk_size=2)

    assert torch.autograd.gradcheck(run, tuple(inputs.values()))


@FORMS
@pytest.mark.parametrize("log_decay", [-1e4, -50.0, 0.0])
def test_extreme_decays_stay_finite(form: Form, log_decay: float) -> None:
    inputs = lightning_inputs(tokens=70, dtype=torch.float32)
    inputs["log_decay"] = torch.full_like(inputs["log_decay"], log_decay)
    results = form(**inputs, scale=1.0)
    for x in (*results, *gradients(results, inputs).values()):
        assert x.isfinite().all()


@FORMS
def test_inputs_are_left_alone(form: Form) -> None:
    inputs = lightning_inputs(tokens=33)
    before = {name: (x.detach().clone(), x._version) for name, x in inputs.items()}
    results = form(**inputs, scale=1.0)
    gradients(results, inputs)
    for name, x in inputs.items():
        assert torch.equal(x, before[name][0]), name
        assert x._version == before[name][1], name
