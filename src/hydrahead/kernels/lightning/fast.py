"""Fixed-decay linear attention on fla's Triton kernels (fla-core >= 0.6), as `reference.py` has it.

fla has one state per q_head, so keys and values are repeated over a group and the group's state is
taken from its first q_head (all are equal). Rows with documents or padding become one flat row of
valid tokens with sequence borders, so that the decay stays a constant: fla's backward with a decay
per token is wrong on some GPUs, and with a constant one it is not. q, k and v go in q's dtype,
states in fp32. The chunk size is fla's (64).

fla is imported inside the functions: without a GPU its import fails.
"""

from collections.abc import Callable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from hydrahead.kernels.kernel import Kernel
from hydrahead.kernels.opaque import opaque_when_compiled
from hydrahead.kernels.packing import pack


def lightning_chunked(
    q: Float[Tensor, "b t h e"],
    k: Float[Tensor, "b t n e"],
    v: Float[Tensor, "b t n e2"],
    log_decay: Float[Tensor, " n"],
    *,
    scale: float,
    initial_state: Float[Tensor, "b n e e2"] | None = None,
    documents: Int[Tensor, "b t"] | None = None,
    valid: Bool[Tensor, "b t"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "b t h e2"], Float[Tensor, "b n e e2"]]:
    """See `hydrahead.kernels.lightning.reference.lightning_chunked`."""
    from fla.ops.simple_gla import chunk_simple_gla  # pyright: ignore[reportMissingImports]

    return _run(chunk_simple_gla, q, k, v, log_decay, scale, initial_state, documents, valid)


def lightning_recurrent(
    q: Float[Tensor, "b t h e"],
    k: Float[Tensor, "b t n e"],
    v: Float[Tensor, "b t n e2"],
    log_decay: Float[Tensor, " n"],
    *,
    scale: float,
    initial_state: Float[Tensor, "b n e e2"] | None = None,
    documents: Int[Tensor, "b t"] | None = None,
    valid: Bool[Tensor, "b t"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "b t h e2"], Float[Tensor, "b n e e2"]]:
    """See `hydrahead.kernels.lightning.reference.lightning_recurrent`."""
    from fla.ops.simple_gla import (  # pyright: ignore[reportMissingImports]
        fused_recurrent_simple_gla,
    )

    return _run(
        fused_recurrent_simple_gla, q, k, v, log_decay, scale, initial_state, documents, valid
    )


def _run(
    function: Callable[..., tuple[Tensor, Tensor]],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    scale: float,
    initial_state: Tensor | None,
    documents: Tensor | None,
    valid: Tensor | None,
) -> tuple[Tensor, Tensor]:
    group = q.shape[2] // k.shape[2]
    k, v, log_decay = k.to(q.dtype), v.to(q.dtype), log_decay.float()
    before = None if initial_state is None else initial_state.float()
    if group > 1:
        k, v = (x.repeat_interleave(group, 2) for x in (k, v))
        log_decay = log_decay.repeat_interleave(group)
        before = None if before is None else before.repeat_interleave(group, 1)
    packing = None if documents is None and valid is None else pack(q, documents, valid)
    state, cu_seqlens = before, None
    if packing is not None:
        q, k, v = (packing.flatten(x) for x in (q, k, v))
        state, cu_seqlens = packing.spread(before), packing.cu_seqlens
    out, final = function(
        q=q,
        k=k,
        v=v,
        g_gamma=log_decay,
        scale=scale,
        initial_state=state,
        output_final_state=True,
        cu_seqlens=cu_seqlens,
    )
    if packing is not None:
        out, final = packing.restore(out), packing.collect(final, before)
    return out, final.unflatten(1, (-1, group))[:, :, 0]


KERNEL = Kernel(
    op="lightning",
    name="fast",
    chunked=opaque_when_compiled("lightning/chunked", lightning_chunked),
    recurrent=opaque_when_compiled("lightning/recurrent", lightning_recurrent),
    recurrent_up_to=64,
)
