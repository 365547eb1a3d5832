"""The gated delta rule on fla's Triton kernels (fla-core >= 0.6), as `reference.py` has it.

fla has one state per q_head, so keys, values and gates are repeated over a group and the group's
state is taken from its first q_head (all are equal); a single token goes without. Packed rows
become one flat row with sequence borders. Head sizes up to 256. q, k and v go in q's dtype, gates
and states in fp32. The chunk size is fla's (64). The recurrent form has no backward.

fla is imported inside the functions: without a GPU its import fails.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hydrahead.kernels.kernel import Kernel
from hydrahead.kernels.opaque import opaque_when_compiled
from hydrahead.kernels.packing import pack


def gated_delta_chunked(
    q: Float[Tensor, "b t h e"],
    k: Float[Tensor, "b t n e"],
    v: Float[Tensor, "b t n e2"],
    log_decay: Float[Tensor, "b t n"],
    beta: Float[Tensor, "b t n"],
    *,
    scale: float,
    initial_state: Float[Tensor, "b n e e2"] | None = None,
    documents: Int[Tensor, "b t"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "b t h e2"], Float[Tensor, "b n e e2"]]:
    """See `hydrahead.kernels.gated_delta.reference.gated_delta_chunked`."""
    from fla.ops.gated_delta_rule import (  # pyright: ignore[reportMissingImports]
        chunk_gated_delta_rule,
    )

    return _run(chunk_gated_delta_rule, q, k, v, log_decay, beta, scale, initial_state, documents)


def gated_delta_recurrent(
    q: Float[Tensor, "b t h e"],
    k: Float[Tensor, "b t n e"],
    v: Float[Tensor, "b t n e2"],
    log_decay: Float[Tensor, "b t n"],
    beta: Float[Tensor, "b t n"],
    *,
    scale: float,
    initial_state: Float[Tensor, "b n e e2"] | None = None,
    documents: Int[Tensor, "b t"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "b t h e2"], Float[Tensor, "b n e e2"]]:
    """See `hydrahead.kernels.gated_delta.reference.gated_delta_recurrent`; no gradients."""
    from fla.ops.gated_delta_rule import (  # pyright: ignore[reportMissingImports]
        fused_recurrent_gated_delta_rule,
    )

    if q.shape[1] == 1 and documents is None:
        return _one_token(
            fused_recurrent_gated_delta_rule, q, k, v, log_decay, beta, scale, initial_state
        )
    return _run(
        fused_recurrent_gated_delta_rule, q, k, v, log_decay, beta, scale, initial_state, documents
    )


def _one_token(
    function: Callable[..., tuple[Tensor, Tensor]],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One token reads only the state after it, so nothing has to be repeated over a group."""
    # fla reads the state too, here with the keys; the queries of a group read it in one product.
    _, final = _run(function, k, k, v, log_decay, beta, scale, initial_state, None)
    groups = final.flatten(0, 1)
    rows = q.reshape(groups.shape[0], -1, q.shape[-1]).to(final.dtype)
    out = torch.baddbmm(rows.new_empty(()), rows, groups, beta=0, alpha=scale)
    return out.to(q.dtype).view(*q.shape[:3], -1), final


def _run(
    function: Callable[..., tuple[Tensor, Tensor]],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None,
    documents: Tensor | None,
) -> tuple[Tensor, Tensor]:
    group = q.shape[2] // k.shape[2]
    k, v = k.to(q.dtype), v.to(q.dtype)
    log_decay, beta = log_decay.float(), beta.float()
    state = None if initial_state is None else initial_state.float()
    if group > 1:
        k, v, log_decay, beta = (x.repeat_interleave(group, 2) for x in (k, v, log_decay, beta))
        state = None if state is None else state.repeat_interleave(group, 1)
    packing = None if documents is None else pack(q, documents)
    cu_seqlens = None
    if packing is not None:
        q, k, v, log_decay, beta = (packing.flatten(x) for x in (q, k, v, log_decay, beta))
        state, cu_seqlens = packing.spread(state), packing.cu_seqlens
    out, final = function(
        q=q,
        k=k,
        v=v,
        g=log_decay,
        beta=beta,
        scale=scale,
        initial_state=state,
        output_final_state=True,
        cu_seqlens=cu_seqlens,
    )
    if packing is not None:
        out, final = packing.restore(out), packing.collect(final, None)
    return out, final.unflatten(1, (-1, group))[:, :, 0]


KERNEL = Kernel(
    op="gated_delta",
    name="fast",
    chunked=opaque_when_compiled("gated_delta/chunked", gated_delta_chunked),
    recurrent=opaque_when_compiled("gated_delta/recurrent", gated_delta_recurrent),
    recurrent_up_to=64,
)
