"""Which implementation runs an operation: the fast one (fla, on CUDA) or the reference (anywhere).

The choice is made once per operation, device, dtype and need of gradients, logged once, and listed
for artefacts by `backends_used`. Nothing falls back silently: on CUDA without fla the reference
runs with a warning, and a combination known to be wrong is refused with the mend
(`kernels/refusals.py`).

`HYDRAHEAD_KERNELS=reference` (or `override="reference"`) forces the reference; `fast` refuses to
run anything else where a fast kernel exists.
"""

import logging
import os
from typing import NamedTuple

import torch

from hydrahead.core.errors import HydraHeadError, unknown_name
from hydrahead.core.tables import Table
from hydrahead.kernels.gpu_stack import detect_stack
from hydrahead.kernels.kernel import Kernel
from hydrahead.kernels.refusals import FAST_DTYPES, check

OVERRIDE_VARIABLE = "HYDRAHEAD_KERNELS"
OVERRIDES = ("reference", "fast")

REFERENCES = Table(
    "kernel",
    {
        "gated_delta": "hydrahead.kernels.gated_delta.reference:KERNEL",
        "lightning": "hydrahead.kernels.lightning.reference:KERNEL",
        "short_conv": "hydrahead.kernels.short_conv.reference:KERNEL",
        "ssd": "hydrahead.kernels.ssd.reference:KERNEL",
    },
)
FASTS = Table(
    "fast kernel",
    {
        "gated_delta": "hydrahead.kernels.gated_delta.fast:KERNEL",
        "lightning": "hydrahead.kernels.lightning.fast:KERNEL",
        "ssd": "hydrahead.kernels.ssd.fast:KERNEL",
    },
)

_logger = logging.getLogger(__name__)


class _Call(NamedTuple):
    op: str
    device: torch.device
    dtype: torch.dtype
    needs_grad: bool
    override: str | None


_decided: dict[_Call, str] = {}
_loaded: dict[str, Kernel] = {}
_used: dict[str, set[str]] = {}
_said: set[str] = set()


def resolve(
    op: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    needs_grad: bool,
    override: str | None = None,
) -> Kernel:
    """The implementation of `op` for tensors of `dtype` on `device`.

    Inside a compiled model the decision is made once, when it is compiled.

    Args:
        op: A name in `REFERENCES`.
        device: Where the tensors are.
        dtype: Their dtype.
        needs_grad: Whether a backward pass will run through it.
        override: "reference" or "fast"; None takes the environment's, else decides by device.

    Raises:
        HydraHeadError: Unknown `op` or override; "fast" where it cannot run; a combination
            whose results are known to be wrong.
    """
    return _loaded[_key(op, device, dtype, needs_grad, override)]


def backends_used() -> dict[str, str]:
    """Operation -> the implementations this process has chosen for it, for an artefact's record."""
    return {op: "; ".join(sorted(names)) for op, names in sorted(_used.items())}


def forget() -> None:
    """Decide, and say, everything anew (tests)."""
    _decided.clear()
    _used.clear()
    _said.clear()


@torch.compiler.assume_constant_result
def _key(
    op: str, device: torch.device, dtype: torch.dtype, needs_grad: bool, override: str | None
) -> str:
    """Where in `_loaded` the decision stands; a string, which a compiled graph can hold."""
    if not _loaded:
        # All at once: compiling reads this table once, at the first operation.
        every = [table.load(name) for table in (REFERENCES, FASTS) for name in table]
        _loaded.update({f"{kernel.op}/{kernel.name}": kernel for kernel in every})
    call = _Call(op, device, dtype, needs_grad, override or os.environ.get(OVERRIDE_VARIABLE))
    if call not in _decided:
        kernel, description = _choose(call)
        _used.setdefault(call.op, set()).add(description)
        _say(logging.INFO, f"{call.op} on {call.device.type} runs {description}")
        _decided[call] = f"{kernel.op}/{kernel.name}"
    return _decided[call]


def _choose(call: _Call) -> tuple[Kernel, str]:
    if call.override is not None and call.override not in OVERRIDES:
        raise unknown_name(f"{OVERRIDE_VARIABLE} setting", call.override, OVERRIDES)
    reference: Kernel = REFERENCES.load(call.op)
    if call.op not in FASTS or call.override == "reference":
        return reference, "reference"
    on_cuda = call.device.type == "cuda" and call.dtype in FAST_DTYPES
    if not on_cuda:
        if call.override == "fast":
            raise HydraHeadError(
                f"the fast kernel of {call.op} does not run in {call.dtype} on {call.device.type}",
                where=OVERRIDE_VARIABLE,
                mend="use a CUDA device and bfloat16, float16 or float32, or drop the setting",
            )
        return reference, "reference"
    stack = detect_stack(call.device)
    if stack.fla is None:
        mend = "pip install hydrahead[gpu]"
        if call.override == "fast":
            raise HydraHeadError(f"no fla for the fast kernel of {call.op}", mend=mend)
        _say(
            logging.WARNING,
            f"{call.op} runs the slow reference on {call.device.type}: fla is missing; {mend}",
        )
        return reference, "reference"
    check(call.op, call.dtype, call.needs_grad, stack)
    return FASTS.load(call.op), f"fast ({stack})"


def _say(level: int, message: str) -> None:
    if message not in _said:
        _said.add(message)
        _logger.log(level, message)
