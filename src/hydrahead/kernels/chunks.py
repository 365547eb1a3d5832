"""What the chunked references share: cutting rows into chunks, and decays within a chunk.

Letters: b rows, t tokens, n groups, g q_heads per group, c chunks, l tokens of a chunk.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """fp32, or fp64 if any tensor is fp64: the references never compute in less."""
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


def cut(x: Shaped[Tensor, "b t ..."], length: int) -> Shaped[Tensor, "b c l ..."]:
    """Rows cut into chunks of `length` tokens; the last one is filled up with zeros."""
    missing = -x.shape[1] % length
    if missing:
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing))
    return x.unflatten(1, (-1, length))


def cut_documents(documents: Int[Tensor, "b t"], length: int) -> Int[Tensor, "b 1 c l"]:
    """Document ids in chunks; the filling belongs to the last document."""
    missing = -documents.shape[1] % length
    if missing:
        filling = documents[:, -1:].expand(-1, missing)
        documents = torch.cat((documents, filling), dim=1)
    return documents.unflatten(1, (-1, length)).unsqueeze(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkDecays:
    """How much of what was written at one place is left at another; in [0, 1]."""

    pair: Float[Tensor, "*bn c l l"]
    """From token j (column) to token i (row) of the same chunk; 0 for j > i."""
    read: Float[Tensor, "*bn c l"]
    """From the state before the chunk to token i (its own decay included)."""
    tail: Float[Tensor, "*bn c l"]
    """From token j to the state after the chunk."""
    carry: Float[Tensor, "*bn c"]
    """From the state before the chunk to the state after it."""


def chunk_decays(
    log_decay: Float[Tensor, "*bn c l"],
    documents: Int[Tensor, "b 1 c l"] | None,
    dtype: torch.dtype,
) -> ChunkDecays:
    """Decays within and across chunks, cut at document borders.

    They are exponentials of differences of cumulative logs, never quotients of exponentials, and
    what must not be seen is masked before the exponential: neither the result nor its gradient can
    be inf or NaN. The sums run in fp64 because a difference of two large sums may be small.
    """
    # MPS has no fp64; there a chunk with extreme decays loses digits.
    wide = torch.float32 if log_decay.device.type == "mps" else torch.float64
    sums = log_decay.to(wide).cumsum(-1)
    length = sums.shape[-1]
    unseen = torch.ones(length, length, dtype=torch.bool, device=sums.device).triu(1)
    pair = sums.unsqueeze(-1) - sums.unsqueeze(-2)
    read, tail, carry = sums, sums[..., -1:] - sums, sums[..., -1]
    if documents is not None:
        unseen = unseen | (documents.unsqueeze(-1) != documents.unsqueeze(-2))
        last = documents[..., -1]
        # The state a chunk starts from belongs to the last document before it, for the first chunk
        # to the first document of the row.
        before = torch.cat((documents[..., :1, 0], last[..., :-1]), dim=-1)
        read = read.masked_fill(documents != before.unsqueeze(-1), -torch.inf)
        tail = tail.masked_fill(documents != last.unsqueeze(-1), -torch.inf)
        carry = carry.masked_fill(last != before, -torch.inf)
    pair = pair.masked_fill(unseen, -torch.inf)
    return ChunkDecays(
        pair=pair.to(dtype).exp(),
        read=read.to(dtype).exp(),
        tail=tail.to(dtype).exp(),
        carry=carry.to(dtype).exp(),
    )
