"""Building the `MixContext` of a forward pass: positions, padding, documents, rotations.

Once per pass, with at most one wait for the device:

- positions: as given, else the number of real tokens before (padding does not count);
- documents: where given positions do not go up by one, and only if there is neither a mask nor a
  cache (transformers' own rule for packed rows); packed rows with a cache are refused;
- padding: found by looking at the mask, and remembered by the cache for later passes.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.mixers.attention_context import AttentionContext, find_packing


class Past(Protocol):
    """What the context needs to know of a cache."""

    @property
    def past_positions(self) -> Int[Tensor, "b p"] | None:
        """Position of every cached column, -1 for padding; None before the first token."""
        ...

    @property
    def padded(self) -> bool:
        """Some cached column is padding."""
        ...

    @property
    def plain(self) -> bool:
        """Every cached position is its column."""
        ...


class Rotary(Protocol):
    """transformers' rotary embedding: cosines and sines in the dtype of its first argument."""

    def __call__(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(cos, sin), each [b t e]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    positions: Int[Tensor, "b t"]
    valid: Bool[Tensor, "b t"] | None
    padded: bool
    plain: bool
    resets: Bool[Tensor, "b t"] | None


def build_context(
    hidden: Float[Tensor, "b t d"],
    *,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    past: Past | None,
    rotary: Rotary,
    attn_implementation: str,
) -> AttentionContext:
    """What one forward pass knows of its tokens.

    Args:
        hidden: embeddings of the new tokens (shape, dtype and device are used).
        attention_mask: [b, p + t] of 0 and 1, or None when nothing is padding.
        position_ids: [b, t] or [1, t], or None.
        past: the cache, or None.
        rotary: gives cosines and sines for positions.
        attn_implementation: handed to the mixers.

    Raises:
        HydraHeadError: a mask of another shape, a mask that contradicts the cache, packed rows with
        a cache.
    """
    batch, tokens, _ = hidden.shape
    past_positions = None if past is None else past.past_positions
    if past_positions is not None and past_positions.shape[0] != batch:
        raise HydraHeadError(
            f"the cache holds {past_positions.shape[0]} rows, the input has {batch}",
            mend="use one cache per batch (reorder_cache and batch_repeat_interleave change rows)",
        )
    mask = _checked_mask(attention_mask, batch, tokens, past_positions)
    given = _checked_positions(position_ids, batch, tokens)
    found = _look(mask, given, past, past_positions, (batch, tokens), hidden.device)
    documents = packing = None
    if found.resets is not None:
        documents = found.resets.cumsum(dim=1)
        packing = find_packing(documents)
    cos, sin = rotary(hidden, found.positions)
    return AttentionContext(
        positions=found.positions,
        cos=cos.expand(batch, -1, -1),
        sin=sin.expand(batch, -1, -1),
        past_positions=past_positions,
        valid=found.valid,
        documents=documents,
        attn_implementation=attn_implementation,
        padded=found.padded,
        plain=found.plain,
        packing=packing,
    )


def _look(
    mask: Bool[Tensor, "b s"] | None,
    given: Int[Tensor, "b t"] | None,
    past: Past | None,
    past_positions: Int[Tensor, "b p"] | None,
    size: tuple[int, int],
    device: torch.device,
) -> _Tokens:
    """Positions, and every fact that decides a route, with at most one wait for the device."""
    batch, tokens = size
    before = 0 if past_positions is None else past_positions.shape[1]
    columns = torch.arange(before, before + tokens, device=device).expand(batch, -1)
    past_padded = past is not None and past.padded
    past_plain = past is None or past.plain
    if mask is None and given is None:
        if not past_padded:
            return _Tokens(
                positions=columns, valid=None, padded=False, plain=past_plain, resets=None
            )
        assert past_positions is not None
        counted = (past_positions >= 0).sum(dim=1, keepdim=True)
        positions = columns - before + counted
        return _Tokens(positions=positions, valid=None, padded=True, plain=False, resets=None)

    valid = None if mask is None else mask[:, before:]
    if given is not None:
        positions = given
    elif mask is not None:
        positions = mask.cumsum(dim=1)[:, before:] - 1
    resets = _resets(positions, valid)
    real = torch.ones_like(positions, dtype=torch.bool) if valid is None else valid
    changed = columns.new_zeros((), dtype=torch.bool)
    if mask is not None and past_positions is not None:
        changed = (mask[:, :before] != (past_positions >= 0)).any()
    facts = torch.stack((real.all(), (positions == columns).all(), resets.any(), changed))
    unpadded, in_place, packed, contradicts = facts.tolist()
    if contradicts:
        raise HydraHeadError(
            "the attention mask marks other cached tokens as padding than the cache holds",
            mend="pass the mask of the earlier calls followed by that of the new tokens",
        )
    if packed and past is not None and given is not None:
        raise HydraHeadError(
            "packed rows (positions that do not go up by one) cannot be cached",
            mend="pass use_cache=False, or one document per row",
        )
    padded = past_padded or not unpadded
    positions = positions if unpadded else positions.masked_fill(~real, 0)
    return _Tokens(
        positions=positions,
        valid=None if unpadded else valid,
        padded=padded,
        plain=past_plain and not padded and in_place,
        resets=resets if packed and mask is None and past is None else None,
    )


def _resets(
    positions: Int[Tensor, "b t"], valid: Bool[Tensor, "b t"] | None
) -> Bool[Tensor, "b t"]:
    """Tokens whose position does not follow that of the token before (padding aside)."""
    resets = torch.zeros_like(positions, dtype=torch.bool)
    resets[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
    if valid is not None:
        resets[:, 1:] &= valid[:, 1:] & valid[:, :-1]
    return resets


def _checked_mask(
    attention_mask: Tensor | None,
    batch: int,
    tokens: int,
    past_positions: Int[Tensor, "b p"] | None,
) -> Bool[Tensor, "b s"] | None:
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
        raise HydraHeadError(
            "the attention mask must be two-dimensional: one 0 or 1 per token",
            mend="to pack documents, give position_ids that start again at each",
        )
    columns = tokens + (0 if past_positions is None else past_positions.shape[1])
    if tuple(attention_mask.shape) != (batch, columns):
        raise HydraHeadError(
            f"the attention mask has shape {tuple(attention_mask.shape)}, "
            f"the cached and new tokens have {(batch, columns)}",
            mend="pass one entry per cached and new token",
        )
    return attention_mask.to(torch.bool)


def _checked_positions(
    position_ids: Tensor | None, batch: int, tokens: int
) -> Int[Tensor, "b t"] | None:
    if position_ids is None:
        return None
    if position_ids.ndim == 1:
        position_ids = position_ids[None]
    if (
        position_ids.ndim != 2
        or position_ids.shape[1] != tokens
        or position_ids.shape[0] not in (1, batch)
    ):
        raise HydraHeadError(
            f"position_ids have shape {tuple(position_ids.shape)}, the tokens {(batch, tokens)}"
        )
    return position_ids.expand(batch, -1).to(torch.long)
