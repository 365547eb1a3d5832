"""Fast kernels in compiled code: one operator, the same results and gradients, no graph break."""

import pytest
import torch
from torch import Tensor

from hydrahead.kernels.backend import FASTS
from hydrahead.kernels.opaque import _autograd
from unit.kernels import fake_fla
from unit.kernels.kernel_cases import Inputs, assert_same, gated_delta_inputs, lightning_inputs

DOCUMENTS = torch.tensor([[0] * 3 + [1] * 6, [1] * 9])
INPUTS = {"gated_delta": gated_delta_inputs, "lightning": lightning_inputs}


@pytest.mark.parametrize("op", list(INPUTS))
@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["whole", "packed"])
@pytest.mark.parametrize("with_state", [False, True])
def test_compiled_equals_eager(
    op: str, documents: Tensor | None, with_state: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_fla.install(monkeypatch)
    kernel = FASTS.load(op)
    inputs = INPUTS[op](tokens=9, dtype=torch.float32)
    state = inputs.pop("initial_state")
    if with_state:
        inputs["initial_state"] = state
    names = [name for name in inputs if name != "initial_state"]

    def run(inputs: Inputs) -> tuple[Tensor, Tensor]:
        tensors = [inputs[name] for name in names]
        state = inputs.get("initial_state")
        return kernel.chunked(*tensors, scale=0.5, initial_state=state, documents=documents)

    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert_same(compiled(inputs), run(inputs), inputs, 1e-5)


def test_autograd_is_put_back_as_it_was() -> None:
    x = torch.ones(2, requires_grad=True)
    with torch._C._AutoDispatchBelowAutograd():
        assert not (2 * x).requires_grad
        with _autograd():
            assert (2 * x).requires_grad
        assert not (2 * x).requires_grad
    assert (2 * x).requires_grad
