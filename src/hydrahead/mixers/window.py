"""Sliding-window attention with sinks (StreamingLLM, arXiv 2309.17453).

A query sees the columns at a distance below `window` and the first `sinks` positions of its
document. With sinks = 0 this is a family's own sliding window, in transformers' convention.

Queries are taken in blocks, each against the sinks and the stretch of columns its window reaches,
so memory grows with tokens * (window + sinks). Sinks live in slots of their own (slot j holds
position j: with left padding they start at another column in every row), and the same key is never
attended to twice: in the stretch of columns, positions below `sinks` are masked.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hydrahead.mixers.attention_base import DENSE_TOKENS, AttentionMixer, Block
from hydrahead.mixers.attention_context import AttentionContext
from hydrahead.mixers.contract import MixerShape, MixerState
from hydrahead.mixers.softmax import lower_right
from hydrahead.mixers.window_state import WindowState
from hydrahead.plan.specs.window import WindowSpec

MIN_BLOCK_TOKENS = 128
"""Queries per block: the window, but at least this many (four times as many on a GPU)."""


class WindowMixer(AttentionMixer):
    """Causal softmax attention over the last `window` columns and the first `sinks` positions."""

    def __init__(self, spec: WindowSpec, shape: MixerShape) -> None:
        super().__init__(spec, shape, spec)
        self.window = spec.window
        self.sinks = spec.sinks

    @property
    def reach(self) -> int | None:
        """The window."""
        return self.window

    @property
    def sees_only_reach(self) -> bool:
        """Sinks lie beyond the window."""
        return self.sinks == 0

    def init_state(
        self, batch: int, *, capacity: int | None, device: torch.device, dtype: torch.dtype
    ) -> WindowState:
        """No columns yet; a capacity allocates room for the sinks and the window at once."""
        return WindowState.empty(
            (batch, self.shape.num_groups, self.shape.head_dim),
            window=self.window,
            sinks=self.sinks,
            capacity=capacity,
            device=device,
            dtype=dtype,
        )

    def visible(
        self,
        k: Float[Tensor, "b n t e"],
        v: Float[Tensor, "b n t e"],
        context: AttentionContext,
        state: MixerState | None,
    ) -> tuple[Iterator[Block], MixerState | None]:
        """Blocks over the sinks and each query's window."""
        assert state is None or isinstance(state, WindowState)
        if context.packing is not None:
            return self._packed_blocks(k, v, context), None
        batch, _, tokens, width = k.shape
        before = state or WindowState.empty(
            (batch, k.shape[1], width),
            window=self.window,
            sinks=self.sinks,
            capacity=None,
            device=k.device,
            dtype=k.dtype,
        )
        if tokens == 1 and state is not None:
            new_state = state.append(k, v, context)
            return _newest_block(new_state, context), new_state
        tail_k, tail_v = before.ordered_tail()
        all_k, all_v = torch.cat((tail_k, k), 2), torch.cat((tail_v, v), 2)
        # A fixed state writes its storage here; what the blocks read of its tail was copied above.
        after = before.append(k, v, context)
        if context.plain and after.seen <= self.window:
            blocks = _causal_blocks(all_k, all_v, tokens)
        else:
            blocks = self._blocks(all_k, all_v, after, context)
        return blocks, None if state is None else after

    def _blocks(
        self, k: Tensor, v: Tensor, after: WindowState, context: AttentionContext
    ) -> Iterator[Block]:
        """Blocks over columns that end with the new tokens; sinks as they stand after those."""
        batch, tokens = context.positions.shape
        stored = k.shape[2] - tokens
        valid, positions = _stretch(context, stored)
        sink_k, sink_v, filled = after.sink_slots()
        slots = torch.arange(filled.shape[1], device=k.device)
        # A launch costs a GPU more than the keys that a wider block sees in vain.
        floor = MIN_BLOCK_TOKENS * (1 if k.device.type == "cpu" else 4)
        size = max(floor, min(self.window, DENSE_TOKENS))
        for start in range(0, tokens, size):
            stop = min(start + size, tokens)
            first, last = max(stored + start - self.window + 1, 0), stored + stop
            asking = context.positions[:, start:stop]
            reached = self._reach_mask(stop - start, last - first, k.device)
            mask = reached & (valid & (positions >= self.sinks))[:, None, first:last]
            if context.valid is not None:
                itself = lower_right(stop - start, last - first, k.device)
                itself = itself & ~itself.tril(diagonal=last - first - (stop - start) - 1)
                mask = mask | (itself & ~context.valid[:, start:stop, None])
            to_sinks = filled[:, None, :] & (slots[None, None, :] <= asking[:, :, None])
            yield Block(
                rows=slice(0, batch),
                tokens=slice(start, stop),
                k=torch.cat((sink_k, k[:, :, first:last]), 2),
                v=torch.cat((sink_v, v[:, :, first:last]), 2),
                mask=torch.cat((to_sinks, mask), 2),
            )

    def _reach_mask(self, queries: int, keys: int, device: torch.device) -> Bool[Tensor, "t s"]:
        causal = lower_right(queries, keys, device)
        return causal & ~causal.tril(diagonal=keys - queries - self.window)

    def _packed_blocks(self, k: Tensor, v: Tensor, context: AttentionContext) -> Iterator[Block]:
        documents, packing = context.documents, context.packing
        assert documents is not None and packing is not None
        rows, tokens = documents.shape
        if k.device.type == "cpu" and tokens <= DENSE_TOKENS:
            same = documents[:, :, None] == documents[:, None, :]
            seen = self._reach_mask(tokens, tokens, k.device)
            sinks = lower_right(tokens, tokens, k.device) & (
                context.positions[:, None, :] < self.sinks
            )
            yield Block(
                rows=slice(0, rows), tokens=slice(0, tokens), k=k, v=v, mask=same & (seen | sinks)
            )
            return
        for row, start, stop in packing.bounds:
            place = (slice(row, row + 1), slice(None), slice(start, stop))
            yield from self._document_blocks(k[place], v[place], context, row, start)

    def _document_blocks(
        self, k: Tensor, v: Tensor, context: AttentionContext, row: int, offset: int
    ) -> Iterator[Block]:
        """Blocks of one packed document, placed back in its row."""
        here = (slice(row, row + 1), slice(offset, offset + k.shape[2]))
        alone = AttentionContext(
            positions=context.positions[here],
            cos=context.cos[here],
            sin=context.sin[here],
            attn_implementation=context.attn_implementation,
        )
        blocks, _ = self.visible(k, v, alone, None)
        for block in blocks:
            tokens = slice(block.tokens.start + offset, block.tokens.stop + offset)
            yield Block(
                rows=here[0],
                tokens=tokens,
                k=block.k,
                v=block.v,
                mask=block.mask,
                causal=block.causal,
            )


def _causal_blocks(k: Tensor, v: Tensor, tokens: int) -> Iterator[Block]:
    """Everything is within the window: plain causal attention."""
    size = tokens if tokens in (1, k.shape[2]) else DENSE_TOKENS
    for start in range(0, tokens, size):
        stop = min(start + size, tokens)
        seen = k.shape[2] - tokens + stop
        yield Block(
            rows=slice(0, k.shape[0]),
            tokens=slice(start, stop),
            k=k[:, :, :seen],
            v=v[:, :, :seen],
            causal=True,
        )


def _newest_block(state: WindowState, context: AttentionContext) -> Iterator[Block]:
    """One new token against the state that holds it: no block of columns to cut."""
    whole = slice(0, context.positions.shape[0])
    k, v, stored = state.visible_entries(context.plain)
    mask = None
    if not context.plain:
        key = "newest", state.window, state.sinks, state.capacity
        mask = context.once(key, lambda: _newest_mask(state, context))
        assert stored == mask.shape[2]
    yield Block(rows=whole, tokens=slice(0, 1), k=k, v=v, mask=mask)


def _newest_mask(state: WindowState, context: AttentionContext) -> Bool[Tensor, "b one s"]:
    """What the newest token sees of the state that holds it."""
    valid, positions = _stretch(context, state.tail_length - 1)
    order = state.tail_columns() - (state.seen - state.tail_length)
    in_tail = (valid & (positions >= state.sinks))[:, order]
    # Padding sees itself, like everywhere: nothing may be NaN.
    newest = order == state.tail_length - 1
    in_tail = in_tail | (newest & ~valid[:, -1:])
    return torch.cat((state.sink_filled, in_tail), 1)[:, None, :]


def _stretch(
    context: AttentionContext, stored: int
) -> tuple[Bool[Tensor, "b s"], Int[Tensor, "b s"]]:
    """Validity and position of the last `stored` cached columns and of the new tokens."""
    valid = context.valid
    if valid is None:
        valid = torch.ones_like(context.positions, dtype=torch.bool)
    if stored == 0 or context.past_positions is None:
        return valid, context.positions
    past = context.past_positions[:, context.past_positions.shape[1] - stored :]
    return torch.cat((past >= 0, valid), 1), torch.cat((past, context.positions), 1)
