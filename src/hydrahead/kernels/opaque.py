"""Fast kernels inside compiled models: one operator that torch.compile does not look into.

fla's functions switch the compiler off, which breaks the graph at every layer. Compiled code calls
this operator instead; code that is not compiled never sees it. Its backward runs the forward once
more rather than reach into fla for what it would have saved.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hydrahead.kernels.kernel import KernelForm

_functions: dict[str, KernelForm] = {}


def opaque_when_compiled(name: str, function: KernelForm) -> KernelForm:
    """`function`, which inside compiled code is called through the operator.

    Args:
        name: Unique per function ("gated_delta/chunked").
        function: Takes q, k, v and gates by position, and by keyword `scale`, `initial_state`,
            `documents` and, if it knows padding, `valid`; returns outputs and final state.
    """
    _functions[name] = function

    @functools.wraps(function)
    def call(*tensors: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
        if not torch.compiler.is_compiling():
            return function(*tensors, **settings)
        optional = (settings.get(key) for key in ("initial_state", "documents", "valid"))
        return _forward(name, list(tensors), settings["scale"], *optional)

    return call


def _run(
    name: str,
    tensors: list[Tensor],
    scale: float,
    initial_state: Tensor | None,
    documents: Tensor | None,
    valid: Tensor | None,
) -> tuple[Tensor, Tensor]:
    padding = {} if valid is None else {"valid": valid}
    return _functions[name](
        *tensors, scale=scale, initial_state=initial_state, documents=documents, **padding
    )


@torch.library.custom_op("hydrahead::linear_attention", mutates_args=())
def _forward(
    name: str,
    tensors: list[Tensor],
    scale: float,
    initial_state: Tensor | None,
    documents: Tensor | None,
    valid: Tensor | None,
) -> tuple[Tensor, Tensor]:
    out, state = _run(name, tensors, scale, initial_state, documents, valid)
    return out.contiguous(), state.contiguous()


@_forward.register_fake
def _(
    name: str,
    tensors: list[Tensor],
    scale: float,
    initial_state: Tensor | None,
    documents: Tensor | None,
    valid: Tensor | None,
) -> tuple[Tensor, Tensor]:
    q, k, v = tensors[:3]
    # Heads share a group's k and v, or (state-space scans) its q and k: a state per v either way.
    out = q.new_empty(*q.shape[:2], max(q.shape[2], v.shape[2]), v.shape[-1])
    size = (q.shape[0], v.shape[2], k.shape[-1], v.shape[-1])
    return out, q.new_empty(size, dtype=torch.float32)


@torch.library.custom_op("hydrahead::linear_attention_backward", mutates_args=())
def _backward(
    name: str,
    tensors: list[Tensor],
    scale: float,
    initial_state: Tensor | None,
    documents: Tensor | None,
    valid: Tensor | None,
    grad_out: Tensor,
    grad_state: Tensor,
) -> list[Tensor]:
    inputs = tensors if initial_state is None else [*tensors, initial_state]
    with _autograd(), torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        first = leaves[: len(tensors)]
        state = None if initial_state is None else leaves[-1]
        outputs = _run(name, first, scale, state, documents, valid)
        found = torch.autograd.grad(
            outputs, leaves, (grad_out, grad_state), allow_unused=True, materialize_grads=True
        )
    return [gradient.contiguous() for gradient in found]


@_backward.register_fake
def _(
    name: str,
    tensors: list[Tensor],
    scale: float,
    initial_state: Tensor | None,
    documents: Tensor | None,
    valid: Tensor | None,
    grad_out: Tensor,
    grad_state: Tensor,
) -> list[Tensor]:
    inputs = tensors if initial_state is None else [*tensors, initial_state]
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.name, tensors, ctx.scale, initial_state, documents, valid = inputs
    ctx.count, ctx.given = len(tensors), [x is not None for x in (initial_state, documents, valid)]
    optional = [x for x in (initial_state, documents, valid) if x is not None]
    ctx.save_for_backward(*tensors, *optional)


def _gradients(ctx: Any, grad_out: Tensor, grad_state: Tensor) -> tuple[Any, ...]:
    tensors, rest = list(ctx.saved_tensors[: ctx.count]), list(ctx.saved_tensors[ctx.count :])
    initial_state, documents, valid = (rest.pop(0) if given else None for given in ctx.given)
    found = _backward(
        ctx.name, tensors, ctx.scale, initial_state, documents, valid, grad_out, grad_state
    )
    state = found[ctx.count] if initial_state is not None else None
    return None, found[: ctx.count], None, state, None, None


@contextmanager
def _autograd() -> Iterator[None]:
    """Record a graph inside an operator, where torch has switched that off for this thread."""
    keys = (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.AutogradOther)
    before = [torch._C._dispatch_tls_is_dispatch_key_excluded(key) for key in keys]
    try:
        for key in keys:
            torch._C._dispatch_tls_set_dispatch_key_excluded(key, False)
        yield
    finally:
        for key, excluded in zip(keys, before, strict=True):
            torch._C._dispatch_tls_set_dispatch_key_excluded(key, excluded)


_register: Callable[..., None] = _forward.register_autograd
_register(_gradients, setup_context=_keep_inputs)
