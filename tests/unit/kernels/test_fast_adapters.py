"""How calls are handed to fla: groups, documents, padding and states, with a stand-in for fla."""

import pytest
import torch

from hydrahead.kernels.backend import FASTS, REFERENCES
from unit.kernels import fake_fla
from unit.kernels.kernel_cases import assert_same, gated_delta_inputs, lightning_inputs

DOCUMENTS = torch.tensor([[0] * 3 + [1] * 6, [1] * 9])
VALID = torch.tensor([[True] * 9, [False] * 3 + [True] * 4 + [False] * 2])
INPUTS = {"gated_delta": gated_delta_inputs, "lightning": lightning_inputs}


@pytest.fixture(autouse=True)
def fla(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_fla.install(monkeypatch)


@pytest.mark.parametrize("op", list(FASTS))
@pytest.mark.parametrize("form", ["chunked", "recurrent"])
@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["whole", "packed"])
@pytest.mark.parametrize("with_state", [False, True])
def test_equals_the_reference(
    op: str, form: str, group_size: int, documents: torch.Tensor | None, with_state: bool
) -> None:
    inputs = INPUTS[op](tokens=9, group_size=group_size, dtype=torch.float32)
    if not with_state:
        del inputs["initial_state"]
    fast, reference = (getattr(table.load(op), form) for table in (FASTS, REFERENCES))
    ours = fast(**inputs, scale=0.5, documents=documents)
    theirs = reference(**inputs, scale=0.5, documents=documents)
    assert_same(ours, theirs, inputs, 1e-5)


@pytest.mark.parametrize("form", ["chunked", "recurrent"])
@pytest.mark.parametrize("valid", [VALID, VALID & torch.tensor([[True], [False]])])
def test_lightning_skips_padding(form: str, valid: torch.Tensor) -> None:
    inputs = lightning_inputs(tokens=9, dtype=torch.float32)
    fast, reference = (getattr(table.load("lightning"), form) for table in (FASTS, REFERENCES))
    out, state = fast(**inputs, scale=0.5, valid=valid)
    exact, exact_state = reference(**inputs, scale=0.5, valid=valid)
    shown = valid[:, :, None, None]
    assert_same((out * shown, state), (exact * shown, exact_state), inputs, 1e-5)
