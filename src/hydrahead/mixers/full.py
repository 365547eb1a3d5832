"""Full softmax attention: every query sees every earlier token of its document.

With the plain settings this is the teacher's own attention. The state holds the keys and values of
every token; without padding no mask of queries x keys is ever built on a fused path.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.mixers.attention_base import (
    DENSE_TOKENS,
    MASK_ENTRIES,
    AttentionMixer,
    Block,
)
from hydrahead.mixers.attention_context import AttentionContext, key_validity
from hydrahead.mixers.contract import MixerShape, MixerState
from hydrahead.mixers.softmax import causal_is_fused, lower_right
from hydrahead.plan.specs.full import FullSpec


@dataclass(frozen=True, kw_only=True)
class FullState(MixerState):
    """Keys and values of the first `length` columns, groups in size order.

    A growing state is a new tensor per step. A fixed one (made with a capacity) writes its storage
    in place and hands out views of it, so only its newest value may be used.
    """

    can_truncate: ClassVar[bool] = True

    k: Float[Tensor, "b n s e"]
    v: Float[Tensor, "b n s e"]
    length: int
    fixed: bool

    def nbytes(self) -> int:
        """Bytes of the columns in use."""
        used = self.k[:, :, : self.length]
        return 2 * used.numel() * used.element_size()

    def truncate(self, length: int) -> Self:
        """The state after only the first `length` columns."""
        assert 0 <= length <= self.length
        if self.fixed:
            return replace(self, length=length)
        return replace(self, k=self.k[:, :, :length], v=self.v[:, :, :length], length=length)

    def append(self, k: Float[Tensor, "b n t e"], v: Float[Tensor, "b n t e"]) -> Self:
        """The state after these columns too."""
        length = self.length + k.shape[2]
        if not self.fixed:
            return replace(
                self, k=torch.cat((self.k, k), 2), v=torch.cat((self.v, v), 2), length=length
            )
        if length > self.k.shape[2]:
            raise HydraHeadError(
                f"the cache was allocated for {self.k.shape[2]} tokens and cannot hold {length}",
                mend="ask for a larger one (max_new_tokens, or the capacity of the cache)",
            )
        with torch.no_grad():
            self.k[:, :, self.length : length] = k
            self.v[:, :, self.length : length] = v
        return replace(self, length=length)


class FullMixer(AttentionMixer):
    """Causal softmax attention over everything that came before."""

    def __init__(self, spec: FullSpec, shape: MixerShape) -> None:
        super().__init__(spec, shape, spec)

    def init_state(
        self, batch: int, *, capacity: int | None, device: torch.device, dtype: torch.dtype
    ) -> FullState:
        """No columns yet; with `capacity`, room for that many."""
        size = (batch, self.shape.num_groups, capacity or 0, self.shape.head_dim)
        return FullState(
            k=torch.zeros(size, device=device, dtype=dtype),
            v=torch.zeros(size, device=device, dtype=dtype),
            length=0,
            fixed=capacity is not None,
        )

    def visible(
        self,
        k: Float[Tensor, "b n t e"],
        v: Float[Tensor, "b n t e"],
        context: AttentionContext,
        state: MixerState | None,
    ) -> tuple[Iterator[Block], MixerState | None]:
        """Blocks over all columns so far."""
        assert state is None or isinstance(state, FullState)
        new_state = None
        if state is not None:
            new_state = state.append(k, v)
            k, v = new_state.k[:, :, : new_state.length], new_state.v[:, :, : new_state.length]
        return _blocks(k, v, context), new_state


def _blocks(k: Tensor, v: Tensor, context: AttentionContext) -> Iterator[Block]:
    rows, tokens = context.positions.shape
    columns = k.shape[2]
    if context.packing is not None:
        yield from _packed_blocks(k, v, context)
        return
    if tokens == 1:
        mask = None
        if context.padded:
            mask = context.once(("newest",), lambda: _padded_mask(key_validity(context), 1))
        yield Block(rows=slice(0, rows), tokens=slice(0, 1), k=k, v=v, mask=mask)
        return
    fused = not context.padded and causal_is_fused(tokens, columns, k.device, k.dtype)
    affordable = max(MASK_ENTRIES // (rows * columns), 16)
    size = tokens if fused else min(tokens, DENSE_TOKENS, affordable)
    valid = key_validity(context) if context.padded else None
    for start in range(0, tokens, size):
        stop = min(start + size, tokens)
        seen = columns - tokens + stop
        mask = None if valid is None else _padded_mask(valid[:, :seen], stop - start)
        yield Block(
            rows=slice(0, rows),
            tokens=slice(start, stop),
            k=k[:, :, :seen],
            v=v[:, :, :seen],
            mask=mask,
            causal=mask is None,
        )


def _packed_blocks(k: Tensor, v: Tensor, context: AttentionContext) -> Iterator[Block]:
    documents, packing = context.documents, context.packing
    assert documents is not None and packing is not None
    rows, tokens = documents.shape
    everything = slice(0, tokens)
    if k.device.type == "cpu" and tokens <= DENSE_TOKENS:
        same = documents[:, :, None] == documents[:, None, :]
        mask = same & lower_right(tokens, tokens, k.device)
        yield Block(rows=slice(0, rows), tokens=everything, k=k, v=v, mask=mask)
        return
    for row, start, stop in packing.bounds:
        place = (slice(row, row + 1), slice(None), slice(start, stop))
        yield Block(rows=place[0], tokens=place[2], k=k[place], v=v[place], causal=True)


def _padded_mask(valid: Bool[Tensor, "b s"], queries: int) -> Bool[Tensor, "b t s"]:
    """Causal, real keys only; every query also sees itself, so that padding stays finite."""
    columns = valid.shape[1]
    causal = lower_right(queries, columns, valid.device)
    itself = causal & ~causal.tril(diagonal=columns - queries - 1)
    return (causal & valid[:, None, :]) | itself
