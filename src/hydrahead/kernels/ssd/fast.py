"""The state-space scan of Mamba-2 on a GPU, as `reference.py` has it: three routes, one result.

- `through_simple_gla`: fla's simple_gla is the same recurrence (q = C, k = B, v = dt x, one decay
  per head). It serves every forward pass and decoding. Its backward is refused where it is known
  to be wrong (`kernels/refusals.py`, under "simple_gla").
- `through_gla`: fla's chunk_gla with the decay repeated over the state's rows. Its backward is
  another kernel, which the fault of simple_gla does not touch; it trains in bf16 on Hopper.
- `through_products`: the chunked products of the reference with operands in the inputs' dtype. It
  is the only one that does not repeat q and k over the heads of a group.

fla wants q and k per head, so the first two repeat them. Packed rows become one flat row with
sequence borders. States and decays are fp32. fla is imported inside the functions: without a GPU
its import fails.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hydrahead.core.errors import HydraHeadError, unknown_name
from hydrahead.kernels.gpu_stack import detect_stack
from hydrahead.kernels.kernel import Kernel
from hydrahead.kernels.opaque import opaque_when_compiled
from hydrahead.kernels.packing import pack
from hydrahead.kernels.refusals import is_known_wrong
from hydrahead.kernels.ssd.products import scan_by_products

ROUTE_VARIABLE = "HYDRAHEAD_SSD_ROUTE"
Scan = Callable[..., tuple[Tensor, Tensor]]


def through_simple_gla(
    q: Float[Tensor, "b t n e"],
    k: Float[Tensor, "b t n e"],
    v: Float[Tensor, "b t h e2"],
    log_decay: Float[Tensor, "b t h"],
    **settings: Any,
) -> tuple[Float[Tensor, "b t h e2"], Float[Tensor, "b h e e2"]]:
    """The scan by chunks; see `ssd_chunked` of the reference."""
    from fla.ops.simple_gla import chunk_simple_gla  # pyright: ignore[reportMissingImports]

    return _run(chunk_simple_gla, q, k, v, log_decay, **settings)


def through_gla(
    q: Float[Tensor, "b t n e"],
    k: Float[Tensor, "b t n e"],
    v: Float[Tensor, "b t h e2"],
    log_decay: Float[Tensor, "b t h"],
    **settings: Any,
) -> tuple[Float[Tensor, "b t h e2"], Float[Tensor, "b h e e2"]]:
    """The scan by chunks, through gates of a whole row; see `ssd_chunked` of the reference."""
    from fla.ops.gla import chunk_gla  # pyright: ignore[reportMissingImports]

    def gated(*, q: Tensor, g: Tensor, **others: Any) -> tuple[Tensor, Tensor]:
        rows = g.unsqueeze(-1).expand(*g.shape, q.shape[-1])
        return chunk_gla(q=q, g=rows.contiguous(), **others)

    return _run(gated, q, k, v, log_decay, **settings)


def through_products(
    q: Float[Tensor, "b t n e"],
    k: Float[Tensor, "b t n e"],
    v: Float[Tensor, "b t h e2"],
    log_decay: Float[Tensor, "b t h"],
    *,
    scale: float,
    initial_state: Float[Tensor, "b h e e2"] | None = None,
    documents: Int[Tensor, "b t"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "b t h e2"], Float[Tensor, "b h e e2"]]:
    """The scan by chunks, as matrix products; see `ssd_chunked` of the reference."""
    return scan_by_products(
        q,
        k,
        v,
        log_decay,
        scale=scale,
        initial_state=initial_state,
        documents=documents,
        chunk_size=chunk_size,
        operand_dtype=q.dtype,
    )


ROUTES: dict[str, Scan] = {
    "simple_gla": through_simple_gla,
    "gla": through_gla,
    "products": through_products,
}
"""Every way to run the chunked form on a GPU, by name (benchmarks/kernels measures them)."""


def training_route(device: torch.device, dtype: torch.dtype) -> str:
    """The route whose backward is right on this device: simple_gla where it is, else gla.

    The environment variable HYDRAHEAD_SSD_ROUTE names another one.

    Raises:
        HydraHeadError: it names none, or the one that is wrong here.
    """
    wrong = is_known_wrong("simple_gla", dtype, detect_stack(device))
    chosen = os.environ.get(ROUTE_VARIABLE) or ("gla" if wrong else "simple_gla")
    if chosen not in ROUTES:
        raise unknown_name(f"{ROUTE_VARIABLE} setting", chosen, ROUTES)
    if chosen == "simple_gla" and wrong:
        raise HydraHeadError(
            "the backward pass of simple_gla is wrong on this GPU (fla issue 640)",
            where=ROUTE_VARIABLE,
            mend="use gla or products, or drop the setting",
        )
    return chosen


def ssd_chunked(
    q: Float[Tensor, "b t n e"],
    k: Float[Tensor, "b t n e"],
    v: Float[Tensor, "b t h e2"],
    log_decay: Float[Tensor, "b t h"],
    *,
    scale: float,
    initial_state: Float[Tensor, "b h e e2"] | None = None,
    documents: Int[Tensor, "b t"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "b t h e2"], Float[Tensor, "b h e e2"]]:
    """See `hydrahead.kernels.ssd.reference.ssd_chunked`."""
    tensors = [x for x in (q, k, v, log_decay, initial_state) if x is not None]
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    route = training_route(q.device, q.dtype) if needs_grad else "simple_gla"
    return ROUTES[route](
        q, k, v, log_decay, scale=scale, initial_state=initial_state, documents=documents
    )


def ssd_recurrent(
    q: Float[Tensor, "b t n e"],
    k: Float[Tensor, "b t n e"],
    v: Float[Tensor, "b t h e2"],
    log_decay: Float[Tensor, "b t h"],
    *,
    scale: float,
    initial_state: Float[Tensor, "b h e e2"] | None = None,
    documents: Int[Tensor, "b t"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "b t h e2"], Float[Tensor, "b h e e2"]]:
    """See `hydrahead.kernels.ssd.reference.ssd_recurrent`."""
    from fla.ops.simple_gla import (  # pyright: ignore[reportMissingImports]
        fused_recurrent_simple_gla,
    )

    return _run(
        fused_recurrent_simple_gla,
        q,
        k,
        v,
        log_decay,
        scale=scale,
        initial_state=initial_state,
        documents=documents,
    )


def _run(
    function: Scan,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    scale: float,
    initial_state: Tensor | None = None,
    documents: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Call fla: q and k per head, everything flat where rows are packed. fla's chunk size is 64."""
    share = v.shape[2] // q.shape[2]
    k, v, log_decay = k.to(q.dtype), v.to(q.dtype), log_decay.float()
    if share > 1:
        q, k = (x.repeat_interleave(share, 2) for x in (q, k))
    state = None if initial_state is None else initial_state.float()
    packing = None if documents is None else pack(v, documents)
    cu_seqlens = None
    if packing is not None:
        q, k, v, log_decay = (packing.flatten(x) for x in (q, k, v, log_decay))
        state, cu_seqlens = packing.spread(state), packing.cu_seqlens
    out, final = function(
        q=q,
        k=k,
        v=v,
        g=log_decay,
        scale=scale,
        initial_state=state,
        output_final_state=True,
        cu_seqlens=cu_seqlens,
    )
    if packing is not None:
        out, final = packing.restore(out), packing.collect(final, None)
    return out, final


KERNEL = Kernel(
    op="ssd",
    name="fast",
    chunked=opaque_when_compiled("ssd/chunked", ssd_chunked),
    recurrent=opaque_when_compiled("ssd/recurrent", ssd_recurrent),
    recurrent_up_to=64,
)
