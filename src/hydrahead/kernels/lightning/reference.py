"""Linear attention with a fixed decay in plain torch: readable, differentiable, on any device.

    S_t = a S_{t-1} + k_t v_t^T       o_t = scale * S_t^T q_t       a = exp(log_decay) per group

(Lightning attention, arXiv 2401.04658; retention, arXiv 2307.08621.) q has h = n * g heads, those
of a group adjacent, and reads the one state of its group.

A token that is not `valid` writes nothing and lets no time pass: the state ages by valid tokens
only, so padding is neutral wherever it stands. Its own output is meaningless. Both forms compute in
fp32 (fp64 for fp64 inputs), never write their inputs, and restart the state where the document id
changes; `initial_state` belongs to the first document of the row.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hydrahead.kernels.chunks import chunk_decays, compute_dtype, cut, cut_documents
from hydrahead.kernels.kernel import Kernel


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
    """Fixed-decay linear attention, `chunk_size` tokens at a time.

    Args:
        q: Queries, h = n * g.
        k: Keys.
        v: Values.
        log_decay: Natural log of each group's decay, <= 0.
        scale: Factor on the output.
        initial_state: State before the first token; zero if None.
        documents: Ids, non-decreasing along a row; None if every row is one document.
        valid: Which tokens are real; None if all are.
        chunk_size: Tokens per chunk, any positive number. It changes speed, not results.

    Returns:
        Outputs in q's dtype, and the state after the last token in fp32 (fp64 for fp64 inputs).
    """
    dtype = compute_dtype(q, k, v)
    tokens, heads, groups = q.shape[1], q.shape[2], k.shape[2]
    length = min(chunk_size, tokens)
    queries = cut(q.to(dtype), length).unflatten(3, (groups, heads // groups))
    queries = queries.permute(0, 3, 1, 4, 2, 5)
    keys = cut(_written(k.to(dtype), valid), length).permute(0, 3, 1, 2, 4)
    values = cut(v.to(dtype), length).permute(0, 3, 1, 2, 4)
    # Log decay per token: zero on the filling of the last chunk, as on tokens that are not valid.
    clock = q.new_ones(1, tokens, dtype=dtype) if valid is None else valid.to(dtype)
    log_decays = cut(clock, length).unsqueeze(1) * log_decay.to(dtype)[:, None, None]
    cut_ids = None if documents is None else cut_documents(documents, length)
    decays = chunk_decays(log_decays, cut_ids, dtype)

    added = (keys * decays.tail.unsqueeze(-1)).mT @ values
    carry = decays.carry[..., None, None]
    state = _first_state(initial_state, q, groups, k.shape[-1], v.shape[-1], dtype)
    starts = []
    for chunk in range(keys.shape[2]):
        starts.append(state)
        state = carry[:, :, chunk] * state + added[:, :, chunk]
    states = torch.stack(starts, dim=2)

    rows = queries.flatten(3, 4)
    scores = (rows @ keys.mT).unflatten(3, (-1, length)) * (scale * decays.pair).unsqueeze(3)
    reads = (scale * decays.read)[..., None, :, None]
    recalled = (rows @ states).unflatten(3, (-1, length)) * reads
    mixed = recalled + (scores.flatten(3, 4) @ values).unflatten(3, (-1, length))
    out = mixed.permute(0, 2, 4, 1, 3, 5).flatten(3, 4).flatten(1, 2)[:, :tokens]
    return out.to(q.dtype), state


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
    """Fixed-decay linear attention, token by token; otherwise as `lightning_chunked`.

    `chunk_size` is taken and not used, so that the two forms are interchangeable.
    """
    dtype = compute_dtype(q, k, v)
    heads, groups = q.shape[2], k.shape[2]
    queries = q.to(dtype).unflatten(2, (groups, heads // groups)) * scale
    keys, values = _written(k.to(dtype), valid), v.to(dtype)
    clock = q.new_ones(1, q.shape[1], dtype=dtype) if valid is None else valid.to(dtype)
    decay = (clock.unsqueeze(-1) * log_decay.to(dtype)).exp()
    if documents is not None:
        goes_on = documents == torch.cat((documents[:, :1], documents[:, :-1]), dim=1)
        decay = decay * goes_on.unsqueeze(-1)
    state = _first_state(initial_state, q, groups, k.shape[-1], v.shape[-1], dtype)
    outputs = []
    for token in range(q.shape[1]):
        written = keys[:, token].unsqueeze(-1) * values[:, token].unsqueeze(-2)
        state = decay[:, token, :, None, None] * state + written
        outputs.append((queries[:, token] @ state).flatten(1, 2))
    return torch.stack(outputs, dim=1).to(q.dtype), state


def _written(keys: Float[Tensor, "b t n e"], valid: Bool[Tensor, "b t"] | None) -> Tensor:
    return keys if valid is None else keys * valid[:, :, None, None]


def _first_state(
    given: Tensor | None, like: Tensor, groups: int, rows: int, columns: int, dtype: torch.dtype
) -> Float[Tensor, "b n e e2"]:
    if given is not None:
        return given.to(dtype)
    return like.new_zeros(like.shape[0], groups, rows, columns, dtype=dtype)


KERNEL = Kernel(
    op="lightning",
    name="reference",
    chunked=lightning_chunked,
    recurrent=lightning_recurrent,
    longest_chunk=32,
)
