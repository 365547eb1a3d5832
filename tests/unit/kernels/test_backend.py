"""Which implementation runs where, what is refused, and that nothing happens silently."""

import logging
import sys

import pytest
import torch

from hydrahead.core.errors import HydraHeadError
from hydrahead.kernels import backend
from hydrahead.kernels.gpu_stack import GpuStack, version_tuple
from hydrahead.kernels.refusals import check

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def stack(
    triton: str | None = "3.6.0",
    tilelang: str | None = None,
    fla: str | None = "0.6.0",
    hopper: bool = True,
) -> GpuStack:
    return GpuStack(fla=fla, triton=triton, tilelang=tilelang, hopper=hopper)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.OVERRIDE_VARIABLE, raising=False)
    backend.forget()


@pytest.mark.parametrize("op", list(backend.REFERENCES))
def test_cpu_runs_the_reference(op: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=backend.__name__):
        for _ in range(3):
            kernel = backend.resolve(op, CPU, torch.float32, needs_grad=True)
    assert (kernel.op, kernel.name) == (op, "reference")
    assert backend.backends_used() == {op: "reference"}
    assert len(caplog.records) == 1, "said once"


@pytest.mark.parametrize("op", list(backend.FASTS))
def test_cuda_runs_fla(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "detect_stack", lambda device: stack(tilelang="0.1.8"))
    kernel = backend.resolve(op, CUDA, torch.bfloat16, needs_grad=True)
    assert kernel.name == "fast"
    used = backend.backends_used()[op]
    assert used == "fast (fla 0.6.0, triton 3.6.0, tilelang 0.1.8)"


def test_importing_the_fast_kernels_needs_no_fla() -> None:
    assert "fla" not in sys.modules
    for op in backend.FASTS:
        assert backend.FASTS.load(op).op == op
    assert "fla" not in sys.modules


def test_cuda_without_fla_warns_and_says_so_in_the_record(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backend, "detect_stack", lambda device: stack(fla=None, triton=None))
    for needs_grad in (True, False):
        kernel = backend.resolve("gated_delta", CUDA, torch.bfloat16, needs_grad=needs_grad)
        assert kernel.name == "reference"
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "pip install hydrahead[gpu]" in warnings[0].message
    assert backend.backends_used() == {"gated_delta": "reference"}


def test_fp64_and_operations_without_a_fast_kernel_run_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend, "detect_stack", lambda device: stack())
    assert backend.resolve("gated_delta", CUDA, torch.float64, needs_grad=True).name == "reference"
    assert backend.resolve("short_conv", CUDA, torch.bfloat16, needs_grad=True).name == "reference"


def test_override_by_argument_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "detect_stack", lambda device: stack())
    arguments = ("gated_delta", CUDA, torch.bfloat16)
    assert backend.resolve(*arguments, needs_grad=False).name == "fast"
    assert backend.resolve(*arguments, needs_grad=True, override="reference").name == "reference"
    monkeypatch.setenv(backend.OVERRIDE_VARIABLE, "reference")
    assert backend.resolve(*arguments, needs_grad=True).name == "reference"
    assert backend.backends_used()["gated_delta"].startswith("fast (")
    assert backend.backends_used()["gated_delta"].endswith("; reference")


def test_fast_is_refused_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HydraHeadError, match=r"does not run in torch\.float32 on cpu"):
        backend.resolve("lightning", CPU, torch.float32, needs_grad=False, override="fast")
    monkeypatch.setattr(backend, "detect_stack", lambda device: stack(fla=None))
    monkeypatch.setenv(backend.OVERRIDE_VARIABLE, "fast")
    with pytest.raises(HydraHeadError, match=r"no fla .* pip install hydrahead\[gpu\]"):
        backend.resolve("lightning", CUDA, torch.float32, needs_grad=False)


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(HydraHeadError, match="did you mean 'gated_delta'"):
        backend.resolve("gated_dleta", CPU, torch.float32, needs_grad=False)
    with pytest.raises(HydraHeadError, match="did you mean 'reference'"):
        backend.resolve("lightning", CPU, torch.float32, needs_grad=False, override="refrence")


@pytest.mark.parametrize("triton", ["3.4.0", "3.5.1", "3.6.0+git1", "3.7.0"])
def test_wrong_gated_backward_is_refused_with_the_mend(triton: str) -> None:
    with pytest.raises(HydraHeadError, match=r"wrong on Hopper.*tilelang.*3\.7\.1.*HYDRAHEAD"):
        check("gated_delta", torch.bfloat16, True, stack(triton))


@pytest.mark.parametrize(
    ("op", "dtype", "needs_grad", "found"),
    [
        ("gated_delta", torch.bfloat16, True, stack("3.3.1")),
        ("gated_delta", torch.bfloat16, True, stack("3.7.1")),
        ("gated_delta", torch.bfloat16, True, stack("3.10.0")),
        ("gated_delta", torch.bfloat16, True, stack(tilelang="0.1.8")),
        ("gated_delta", torch.float32, True, stack(tilelang="0.1.8")),
        ("gated_delta", torch.bfloat16, False, stack()),
        ("gated_delta", torch.bfloat16, True, stack(hopper=False)),
        ("lightning", torch.bfloat16, True, stack()),
        ("simple_gla", torch.bfloat16, False, stack()),
        ("simple_gla", torch.float32, True, stack(tilelang="0.1.8")),
    ],
)
def test_right_combinations_pass(
    op: str, dtype: torch.dtype, needs_grad: bool, found: GpuStack
) -> None:
    check(op, dtype, needs_grad, found)


def test_tilelang_does_not_mend_the_scalar_gated_backward_in_bf16() -> None:
    for tilelang in (None, "0.1.8"):
        with pytest.raises(HydraHeadError, match="train in float32"):
            check("simple_gla", torch.bfloat16, True, stack(tilelang=tilelang))
    with pytest.raises(HydraHeadError, match="pip install tilelang"):
        check("simple_gla", torch.float32, True, stack())


def test_old_fla_and_missing_triton_are_refused() -> None:
    with pytest.raises(HydraHeadError, match=r"fla 0\.4\.2 is too old"):
        check("lightning", torch.bfloat16, False, stack(fla="0.4.2"))
    with pytest.raises(HydraHeadError, match="Triton is missing"):
        check("lightning", torch.bfloat16, False, stack(triton=None))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3.6.0", (3, 6, 0)),
        ("3.7", (3, 7, 0)),
        ("3.7.1+cu128", (3, 7, 1)),
        ("3.6.0.post1", (3, 6, 0)),
        ("3.7.0rc2", (3, 7, 0)),
        ("unknown", (0, 0, 0)),
    ],
)
def test_version_tuple(text: str, numbers: tuple[int, int, int]) -> None:
    assert version_tuple(text) == numbers
