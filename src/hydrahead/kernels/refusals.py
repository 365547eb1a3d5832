"""Combinations of operation, dtype, gradient and libraries that are known to give wrong results.

fla's gated backward is wrong on Hopper GPUs with Triton 3.4.0 up to, but not including, 3.7.1 (fla
issue 640). TileLang replaces it there, except where the kernel keeps its states in another dtype
than q: the scalar-gated linear attention does so in bf16. Forward passes and fixed decays
(lightning) are not affected, nor is the state-space scan (ssd), which trains through another kernel
where its own would be wrong.
"""

from collections.abc import Mapping

import torch

from hydrahead.core.errors import HydraHeadError
from hydrahead.kernels.gpu_stack import GpuStack, version_tuple

OLDEST_FLA = (0, 6, 0)
WRONG_TRITON = ((3, 4, 0), (3, 7, 1))
"""First wrong version, first right one again."""

_HALF = frozenset({torch.bfloat16, torch.float16})
_ALL = _HALF | {torch.float32}
GATED_BACKWARD: Mapping[str, frozenset[torch.dtype]] = {
    "gated_delta": _ALL,
    "simple_gla": frozenset({torch.float32}),
}
"""Operations with a per-token gate -> dtypes for which TileLang mends their backward."""

FAST_DTYPES = _ALL
"""What the fast kernels take; fp64 (tests) always runs the reference."""

_REFERENCE = "or run the slow reference with HYDRAHEAD_KERNELS=reference"


def is_known_wrong(op: str, dtype: torch.dtype, stack: GpuStack) -> bool:
    """Whether the gated backward of `op` gives wrong gradients on this stack."""
    if op not in GATED_BACKWARD or not stack.hopper or stack.triton is None:
        return False
    first_wrong, first_right = WRONG_TRITON
    if not first_wrong <= version_tuple(stack.triton) < first_right:
        return False
    return stack.tilelang is None or dtype not in GATED_BACKWARD[op]


def check(op: str, dtype: torch.dtype, needs_grad: bool, stack: GpuStack) -> None:
    """Raise HydraHeadError if the fast kernel of `op` must not run on this stack."""
    if stack.fla is not None and version_tuple(stack.fla) < OLDEST_FLA:
        raise HydraHeadError(
            f"fla {stack.fla} is too old for {op}",
            mend=f"pip install -U 'fla-core>=0.6', {_REFERENCE}",
        )
    if stack.triton is None:
        raise HydraHeadError(
            f"fla needs Triton for {op}, and Triton is missing",
            mend=f"pip install triton, {_REFERENCE}",
        )
    if not needs_grad or not is_known_wrong(op, dtype, stack):
        return
    helps = "pip install tilelang (it needs a CUDA compiler: pip install nvidia-cuda-nvcc)"
    if dtype not in GATED_BACKWARD[op]:
        helps = "TileLang does not mend it in this dtype: train in float32"
    raise HydraHeadError(
        f"the backward pass of {op} in {str(dtype).removeprefix('torch.')} is wrong on Hopper GPUs "
        f"with Triton {stack.triton} (fla issue 640)",
        mend=f"{helps}, or use Triton >= 3.7.1, {_REFERENCE}",
    )
