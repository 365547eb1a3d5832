"""Rows with documents or padding as one flat row of sequences: the layout of fast kernels.

A sequence is a stretch of valid tokens of one document in one row. A row's state before it belongs
to its first sequence, the state after it comes from its last one. A row without any valid token
keeps its state.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Where the tokens of [b, t] rows go in a flat row."""

    rows: int
    tokens: int
    index: Int[Tensor, " flat"] | None
    """Place in the flattened [b * t] of every flat token; None if all are there."""
    cu_seqlens: Int[Tensor, " borders"]
    first: Int[Tensor, " b"]
    """First sequence of every row."""
    last: Int[Tensor, " b"]
    empty: Bool[Tensor, " b"] | None
    """Rows without any valid token (one of their tokens stands in); None if there are none."""

    def flatten(self, x: Shaped[Tensor, "b t ..."]) -> Shaped[Tensor, "1 flat ..."]:
        """The tokens in one row."""
        flat = x.flatten(0, 1)
        return (flat if self.index is None else flat.index_select(0, self.index)).unsqueeze(0)

    def restore(self, flat: Shaped[Tensor, "1 flat ..."]) -> Shaped[Tensor, "b t ..."]:
        """The tokens back in their rows; zero where a row has none."""
        rows = flat.squeeze(0)
        if self.index is not None:
            whole = rows.new_zeros(self.rows * self.tokens, *rows.shape[1:])
            rows = whole.index_copy(0, self.index, rows)
        return rows.unflatten(0, (self.rows, self.tokens))

    def spread(self, state: Float[Tensor, "b ..."] | None) -> Float[Tensor, "sequences ..."] | None:
        """The rows' states at their first sequences, zeros at the others."""
        if state is None:
            return None
        sequences = self.cu_seqlens.shape[0] - 1
        return state.new_zeros(sequences, *state.shape[1:]).index_copy(0, self.first, state)

    def collect(
        self, states: Float[Tensor, "sequences ..."], before: Float[Tensor, "b ..."] | None
    ) -> Float[Tensor, "b ..."]:
        """The rows' states after their last sequences, given those before the first."""
        after = states.index_select(0, self.last)
        if self.empty is None:
            return after
        kept = torch.zeros_like(after) if before is None else before.to(after.dtype)
        return torch.where(self.empty.view(-1, *(1,) * (after.ndim - 1)), kept, after)


def pack(
    like: Shaped[Tensor, "b t ..."],
    documents: Int[Tensor, "b t"] | None,
    valid: Bool[Tensor, "b t"] | None = None,
) -> Packing:
    """Work out the flat row for tensors like `like`. Waits for the device: lengths are data."""
    rows, tokens = like.shape[:2]
    device = like.device
    row = torch.arange(rows, device=device).unsqueeze(1).expand(rows, tokens).flatten()
    ids = torch.zeros_like(row) if documents is None else documents.flatten()
    index = empty = None
    if valid is not None:
        empty = ~valid.any(dim=1)
        kept = valid.clone()
        kept[:, 0] |= empty
        index = kept.flatten().nonzero().squeeze(1)
        row, ids = row[index], ids[index]
    starts = torch.ones_like(row, dtype=torch.bool)
    starts[1:] = (row[1:] != row[:-1]) | (ids[1:] != ids[:-1])
    begins = starts.nonzero().squeeze(1)
    per_row = torch.bincount(row[begins], minlength=rows)
    last = per_row.cumsum(0) - 1
    end = torch.full((1,), row.shape[0], device=device, dtype=begins.dtype)
    return Packing(
        rows=rows,
        tokens=tokens,
        index=index,
        cu_seqlens=torch.cat((begins, end)),
        first=last - per_row + 1,
        last=last,
        empty=empty,
    )
