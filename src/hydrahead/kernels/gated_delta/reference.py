"""The gated delta rule in plain torch: readable, differentiable, on any device (arXiv 2412.06464).

    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T        o_t = scale * S_t^T q_t

a_t = exp(log_decay_t). Keys come L2-normalised; b_t in (0, 2) is allowed (negative eigenvalues,
arXiv 2411.12537). q has h = n * g heads, those of a group adjacent, and reads the one state of its
group.

`gated_delta_recurrent` is the equation; `gated_delta_chunked` is the same by chunks (arXiv
2406.06484, with decays): inside a chunk the corrected values u_i solve a unit lower-triangular
system. With r_i = a_1 ... a_i and d_ij = a_{j+1} ... a_i,

    u_i = b_i (v_i - k_i^T (r_i S_0 + sum_{j<i} d_ij k_j u_j^T)),    (I + A) u = b v - (b r k) S_0

where A_ij = b_i d_ij k_i.k_j for j < i. One inverse per chunk, all chunks at once, leaves a
recurrence over chunks with one small matrix product each:

    S' = (r_l I - M) S + N,    [N | M] = (d_l k)^T (I + A)^-1 [b v | b r k]

Both compute in fp32 (fp64 for fp64 inputs), never write their inputs, and handle packed rows: where
the document id changes the state restarts; `initial_state` belongs to the first document of the
row.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hydrahead.kernels.chunks import chunk_decays, compute_dtype, cut, cut_documents
from hydrahead.kernels.kernel import Kernel


class _UnitLowerInverse(torch.autograd.Function):
    """(I + A)^-1 for strictly lower-triangular A; backward is two products, not two solves."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand_as(a)
        inverse = torch.linalg.solve_triangular(a, eye, upper=False, unitriangular=True)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        (inverse,) = ctx.saved_tensors
        return -(inverse.mT @ grad_outputs[0] @ inverse.mT).tril(-1)


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
    """The gated delta rule, `chunk_size` tokens at a time.

    Args:
        q: Queries, h = n * g.
        k: Keys, L2-normalised by the caller.
        v: Values.
        log_decay: Natural log of a_t, <= 0.
        beta: Writing strength b_t.
        scale: Factor on the output.
        initial_state: State before the first token; zero if None.
        documents: Ids, non-decreasing along a row; None if every row is one document.
        chunk_size: Tokens per chunk, any positive number. It changes speed, not results.

    Returns:
        Outputs in q's dtype, and the state after the last token in fp32 (fp64 for fp64 inputs).
    """
    dtype = compute_dtype(q, k, v)
    tokens, heads, groups = q.shape[1], q.shape[2], k.shape[2]
    length = min(chunk_size, tokens)
    # [b n c l e], and the queries of a group below each other: [b n c g l e]
    queries = cut(q.to(dtype), length).unflatten(3, (groups, heads // groups))
    queries = queries.permute(0, 3, 1, 4, 2, 5)
    keys, values = (cut(x.to(dtype), length).permute(0, 3, 1, 2, 4) for x in (k, v))
    log_decays, betas = (cut(x.to(dtype), length).permute(0, 3, 1, 2) for x in (log_decay, beta))
    cut_ids = None if documents is None else cut_documents(documents, length)
    decays = chunk_decays(log_decays, cut_ids, dtype)

    # (I + A)^-1 [b v | b r k]: the corrected values if the chunk began from nothing, and how they
    # answer to the state it begins from.
    strengths = betas.unsqueeze(-1)
    system = (strengths * decays.pair * (keys @ keys.mT)).tril(-1)
    sides = torch.cat((values, keys * decays.read.unsqueeze(-1)), dim=-1) * strengths
    solved = _UnitLowerInverse.apply(system) @ sides
    fresh, answer = solved.split((v.shape[-1], k.shape[-1]), dim=-1)

    written = (keys * decays.tail.unsqueeze(-1)).mT @ solved
    added, removed = written.split((v.shape[-1], k.shape[-1]), dim=-1)
    carry = decays.carry[..., None, None]
    if initial_state is None:
        state = q.new_zeros(q.shape[0], groups, k.shape[-1], v.shape[-1], dtype=dtype)
    else:
        state = initial_state.to(dtype)
    starts = []
    for chunk in range(keys.shape[2]):
        starts.append(state)
        change = added[:, :, chunk] - removed[:, :, chunk] @ state
        state = carry[:, :, chunk] * state + change
    states = torch.stack(starts, dim=2)

    corrected = fresh - answer @ states
    rows = queries.flatten(3, 4)
    scores = (rows @ keys.mT).unflatten(3, (-1, length)) * (scale * decays.pair).unsqueeze(3)
    reads = (scale * decays.read)[..., None, :, None]
    recalled = (rows @ states).unflatten(3, (-1, length)) * reads
    mixed = recalled + (scores.flatten(3, 4) @ corrected).unflatten(3, (-1, length))
    out = mixed.permute(0, 2, 4, 1, 3, 5).flatten(3, 4).flatten(1, 2)[:, :tokens]
    return out.to(q.dtype), state


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
    """The gated delta rule, token by token; arguments and results as in `gated_delta_chunked`.

    `chunk_size` is taken and not used, so that the two forms are interchangeable.
    """
    dtype = compute_dtype(q, k, v)
    heads, groups = q.shape[2], k.shape[2]
    queries = q.to(dtype).unflatten(2, (groups, heads // groups)) * scale
    keys, values, decay = k.to(dtype), v.to(dtype), log_decay.to(dtype).exp()
    strengths = beta.to(dtype).unsqueeze(-1)
    if initial_state is None:
        state = q.new_zeros(q.shape[0], groups, k.shape[-1], v.shape[-1], dtype=dtype)
    else:
        state = initial_state.to(dtype)
    if documents is not None:
        goes_on = documents == torch.cat((documents[:, :1], documents[:, :-1]), dim=1)
        decay = decay * goes_on.unsqueeze(-1)
    outputs = []
    for token in range(q.shape[1]):
        key = keys[:, token].unsqueeze(-1)
        state = decay[:, token, :, None, None] * state
        recalled = (key.mT @ state).squeeze(-2)
        corrected = strengths[:, token] * (values[:, token] - recalled)
        state = state + key * corrected.unsqueeze(-2)
        outputs.append((queries[:, token] @ state).flatten(1, 2))
    return torch.stack(outputs, dim=1).to(q.dtype), state


KERNEL = Kernel(
    op="gated_delta",
    name="reference",
    chunked=gated_delta_chunked,
    recurrent=gated_delta_recurrent,
    longest_chunk=32,
)
