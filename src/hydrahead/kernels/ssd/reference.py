"""The state-space scan of Mamba-2 in plain torch: readable, differentiable, on any device.

    S_t = a_t S_{t-1} + k_t v_t^T        o_t = scale * S_t^T q_t        a_t = exp(log_decay_t)

(arXiv 2405.21060, Eq. 16; there q is C, k is B, v is dt x, log_decay is dt A.) Unlike in attention
a *group* of heads shares q and k, and every head has its own v, decay and state: v has h = n * g
heads, those of a group adjacent, and head i reads the q and k of group i // g. The state is stored
[e, e2], the transpose of the paper's [P, N].

Both forms compute in fp32 (fp64 for fp64 inputs), never write their inputs, and restart the state
where the document id changes; `initial_state` belongs to the first document of the row. A token
with v = 0 and log_decay = 0 does not exist: that is how padding is passed.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hydrahead.kernels.chunks import compute_dtype
from hydrahead.kernels.kernel import Kernel
from hydrahead.kernels.ssd.products import scan_by_products


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
    """The scan, `chunk_size` tokens at a time.

    Args:
        q: What reads the state (C), one per group.
        k: Where it is written (B), one per group.
        v: What is written (dt x), one per head; h is a multiple of n.
        log_decay: Natural log of each head's decay (dt A), <= 0.
        scale: Factor on the output.
        initial_state: State before the first token; zero if None.
        documents: Ids, non-decreasing along a row; None if every row is one document.
        chunk_size: Tokens per chunk, any positive number. It changes speed, not results.

    Returns:
        Outputs in q's dtype, and the state after the last token in fp32 (fp64 for fp64 inputs).
    """
    return scan_by_products(
        q,
        k,
        v,
        log_decay,
        scale=scale,
        initial_state=initial_state,
        documents=documents,
        chunk_size=chunk_size,
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
    """The scan, token by token; otherwise as `ssd_chunked`.

    `chunk_size` is taken and not used, so that the two forms are interchangeable.
    """
    dtype = compute_dtype(q, k, v)
    groups, heads = q.shape[2], v.shape[2]
    queries, keys = (x.to(dtype).repeat_interleave(heads // groups, dim=2) for x in (q, k))
    values, decay = v.to(dtype), log_decay.to(dtype).exp()
    if documents is not None:
        goes_on = documents == torch.cat((documents[:, :1], documents[:, :-1]), dim=1)
        decay = decay * goes_on.unsqueeze(-1)
    state = values.new_zeros(q.shape[0], heads, q.shape[-1], v.shape[-1])
    if initial_state is not None:
        state = initial_state.to(dtype)
    outputs = []
    for token in range(q.shape[1]):
        written = keys[:, token].unsqueeze(-1) * values[:, token].unsqueeze(-2)
        state = decay[:, token, :, None, None] * state + written
        outputs.append((queries[:, token].unsqueeze(-2) @ state).squeeze(-2))
    return scale * torch.stack(outputs, dim=1).to(q.dtype), state


KERNEL = Kernel(
    op="ssd",
    name="reference",
    chunked=ssd_chunked,
    recurrent=ssd_recurrent,
)
