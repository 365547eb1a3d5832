"""How calls are handed to fla: groups, documents, padding and states, with a stand-in for fla."""

from typing import Any

import pytest
import torch

from hydrahead.kernels.backend import FASTS, REFERENCES
from hydrahead.kernels.gpu_stack import GpuStack
from hydrahead.kernels.ssd import fast as ssd_fast
from unit.kernels import fake_fla
from unit.kernels.kernel_cases import (
    assert_same,
    gated_delta_inputs,
    lightning_inputs,
    ssd_inputs,
)

HOPPER = GpuStack(fla="0.6.0", triton="3.6.0", tilelang="0.1.15", hopper=True)
DOCUMENTS = torch.tensor([[0] * 3 + [1] * 6, [1] * 9])
VALID = torch.tensor([[True] * 9, [False] * 3 + [True] * 4 + [False] * 2])
INPUTS = {"gated_delta": gated_delta_inputs, "lightning": lightning_inputs, "ssd": ssd_inputs}


@pytest.fixture(autouse=True)
def fla(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_fla.install(monkeypatch)
    # Which route trains is asked of the GPU; here there is none.
    monkeypatch.setattr("hydrahead.kernels.ssd.fast.detect_stack", lambda device: HOPPER)


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


@pytest.mark.parametrize("route", list(ssd_fast.ROUTES))
@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["whole", "packed"])
def test_every_route_of_the_scan_gives_the_same(route: str, documents: torch.Tensor | None) -> None:
    inputs = ssd_inputs(tokens=9, group_size=3, dtype=torch.float32)
    ours = ssd_fast.ROUTES[route](**inputs, scale=0.5, documents=documents)
    theirs = REFERENCES.load("ssd").chunked(**inputs, scale=0.5, documents=documents)
    assert_same(ours, theirs, inputs, 1e-5)


def test_the_scan_trains_through_the_kernel_whose_backward_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """bf16 on Hopper is not mended by TileLang, fp32 is; elsewhere nothing is wrong."""
    device = torch.device("cuda", 0)
    assert ssd_fast.training_route(device, torch.bfloat16) == "gla"
    assert ssd_fast.training_route(device, torch.float32) == "simple_gla"
    ampere = GpuStack(fla="0.6.0", triton="3.6.0", tilelang=None, hopper=False)
    monkeypatch.setattr("hydrahead.kernels.ssd.fast.detect_stack", lambda device: ampere)
    assert ssd_fast.training_route(device, torch.bfloat16) == "simple_gla"
    taken: list[str] = []

    def noted(name: str, route: ssd_fast.Scan) -> ssd_fast.Scan:
        def scan(*tensors: torch.Tensor, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
            taken.append(name)
            return route(*tensors, **settings)

        return scan

    monkeypatch.setattr("hydrahead.kernels.ssd.fast.detect_stack", lambda device: HOPPER)
    routes = {name: noted(name, route) for name, route in ssd_fast.ROUTES.items()}
    monkeypatch.setattr(ssd_fast, "ROUTES", routes)
    inputs = ssd_inputs(dtype=torch.bfloat16)
    ssd_fast.ssd_chunked(**inputs, scale=1.0)
    with torch.no_grad():
        ssd_fast.ssd_chunked(**inputs, scale=1.0)
    assert taken == ["gla", "simple_gla"]
