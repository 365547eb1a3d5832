"""The scan by chunks as matrix products: what the reference and one of the training routes share.

    S_t = a_t S_{t-1} + k_t v_t^T        o_t = scale * S_t^T q_t        a_t = exp(log_decay_t)

(Mamba-2, arXiv 2405.21060, sections 6 and 7.) A group's scores q k^T are made once and shared by
its heads, which differ only in their decays: with one group of many heads (Falcon-H1) that is most
of the arithmetic.

Letters: b rows, t tokens, n groups, g heads per group, c chunks, l tokens of a chunk, e state size
(N), e2 head size (P).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hydrahead.kernels.chunks import chunk_decays, compute_dtype, cut, cut_documents


def scan_by_products(
    q: Float[Tensor, "b t n e"],
    k: Float[Tensor, "b t n e"],
    v: Float[Tensor, "b t h e2"],
    log_decay: Float[Tensor, "b t h"],
    *,
    scale: float,
    initial_state: Float[Tensor, "b h e e2"] | None,
    documents: Int[Tensor, "b t"] | None,
    chunk_size: int,
    operand_dtype: torch.dtype | None = None,
) -> tuple[Float[Tensor, "b t h e2"], Float[Tensor, "b h e e2"]]:
    """The scan, `chunk_size` tokens at a time; arguments as `ssd_chunked` of the reference.

    Args:
        operand_dtype: What the large products (within a chunk, and with the states) are formed of;
            None is the dtype everything else is computed in: fp32, or fp64 for fp64 inputs.
    """
    dtype = compute_dtype(q, k, v)
    narrow = operand_dtype or dtype
    tokens, groups, heads = q.shape[1], q.shape[2], v.shape[2]
    length, split = min(chunk_size, tokens), (groups, heads // groups)
    # Heads stand last but one, so that products with q and k take all heads of a group at once.
    queries, keys = (cut(x.to(narrow), length).permute(0, 3, 1, 2, 4) for x in (q, k))
    values = cut(v.to(narrow), length).unflatten(3, split).permute(0, 3, 1, 2, 4, 5)
    cut_ids = None if documents is None else cut_documents(documents, length)
    decays = chunk_decays(cut(log_decay.to(dtype), length).permute(0, 3, 1, 2), cut_ids, dtype)
    pair, carry = decays.pair.unflatten(1, split), decays.carry.unflatten(1, split)
    read, tail = (
        x.unflatten(1, split).permute(0, 1, 3, 4, 2).unsqueeze(-1)
        for x in (decays.read, decays.tail)
    )

    kept = (values * tail).to(narrow).flatten(4, 5)
    added = (keys.mT @ kept).to(dtype).unflatten(4, (split[1], -1))
    state = _first_state(initial_state, added[:, :, 0], split, dtype)
    starts = []
    for chunk in range(added.shape[2]):
        starts.append(state)
        state = carry[:, :, None, :, chunk, None] * state + added[:, :, chunk]
    states = torch.stack(starts, dim=2).to(narrow).flatten(4, 5)

    scores = (queries @ keys.mT).to(dtype).unsqueeze(2) * (scale * pair)
    within = scores.to(narrow) @ values.permute(0, 1, 4, 2, 3, 5)
    recalled = (queries @ states).to(dtype).unflatten(4, (split[1], -1)) * (scale * read)
    mixed = recalled + within.to(dtype).permute(0, 1, 3, 4, 2, 5)
    out = mixed.permute(0, 2, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)[:, :tokens]
    return out.to(q.dtype), state.transpose(2, 3).flatten(1, 2)


def _first_state(
    given: Tensor | None, like: Tensor, split: tuple[int, int], dtype: torch.dtype
) -> Float[Tensor, "b n e g e2"]:
    if given is not None:
        return given.to(dtype).unflatten(1, split).transpose(2, 3)
    return torch.zeros_like(like, dtype=dtype)
