"""Softmax attention of a few rows over all keys: what a head looks at, or returns, at the readout.

Only r queries are looked at, so nothing of size t x t is ever formed. The attention is the
teacher's own: causal, with the layer's sliding window if it has one. Computed in fp32 or wider.

Axes: p patched runs (or any batch), r rows, h q_heads, n kv_heads, s keys, e head_dim.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SCORE_ELEMENTS = 1 << 26
"""Attention logits held at a time (256 MiB in fp32)."""


def visible(positions: Int[Tensor, " r"], num_keys: int, reach: int | None) -> Bool[Tensor, "r s"]:
    """Keys each row sees: not after it, and at a distance below `reach` (None: all)."""
    distance = positions[:, None] - torch.arange(num_keys, device=positions.device)
    return (distance >= 0) & (distance < (num_keys if reach is None else reach))


def row_weights(
    queries: Float[Tensor, "r h e"],
    keys: Float[Tensor, "s n e"],
    seen: Bool[Tensor, "r s"],
) -> Float[Tensor, "r h s"]:
    """Attention weights of every row and q_head; q_heads of a kv_head are adjacent."""
    rows, _, width = queries.shape
    dtype = torch.promote_types(queries.dtype, torch.float32)
    grouped = queries.to(dtype).view(rows, keys.shape[1], -1, width)
    scores = torch.einsum("rnge,sne->rngs", grouped, keys.to(dtype)).flatten(1, 2) * width**-0.5
    return scores.masked_fill(~seen[:, None, :], float("-inf")).softmax(dim=-1)


def copy_attention(
    queries: Float[Tensor, "r h e"],
    keys: Float[Tensor, "s n e"],
    reach: int | None,
    positions: Int[Tensor, " r"],
    copies: Sequence[tuple[int, tuple[int, ...]]],
) -> tuple[np.ndarray, np.ndarray]:
    """How much, and whether most, every q_head looks at the token that is being copied.

    Args:
        reach: sliding window of the layer, None for none.
        positions: of the rows.
        copies: c of them: a row, and the positions that hold the token it copies.

    Returns:
        Attention mass on those positions, and 1 where the key that gets most is one of them, both
        [c, h]. A tie with another key is no hit.
    """
    weights = row_weights(queries, keys, visible(positions, keys.shape[0], reach))
    picked = weights[[row for row, _ in copies]]
    source = torch.zeros(len(copies), 1, keys.shape[0], dtype=torch.bool, device=keys.device)
    for number, (_, places) in enumerate(copies):
        source[number, 0, list(places)] = True
    mass = picked.masked_fill(~source, 0.0).sum(dim=2)
    best = picked.masked_fill(~source, 0.0).amax(dim=2)
    rival = picked.masked_fill(source, 0.0).amax(dim=2)
    return mass.double().cpu().numpy(), (best > rival).double().cpu().numpy()


def row_outputs(
    queries: Float[Tensor, "p r e"],
    keys: Float[Tensor, "s e"],
    values: Float[Tensor, "s e"],
    seen: Bool[Tensor, "r s"],
) -> Float[Tensor, "p r e"]:
    """Output of one q_head for many variants of its queries over the same keys and values."""
    keys, values = keys.to(queries.dtype), values.to(queries.dtype)
    per_chunk = max(1, SCORE_ELEMENTS // (seen.numel()))
    outputs = []
    for chunk in queries.split(per_chunk):
        scores = (chunk @ keys.T) * keys.shape[-1] ** -0.5
        outputs.append(scores.masked_fill(~seen, float("-inf")).softmax(dim=-1) @ values)
    return torch.cat(outputs)
