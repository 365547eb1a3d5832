"""What sliding-window attention remembers: the sinks in slots of their own, and the newest columns.

One tensor holds both, sinks first, so that a decoding step attends to it as it lies. A growing
state is a new tensor per step. A fixed state keeps the tail as a ring, column c in ring place c mod
size, and writes it in place.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.mixers.attention_context import AttentionContext
from hydrahead.mixers.contract import MixerState

Found = tuple[Bool[Tensor, "b m"], Int[Tensor, "b m"]]
"""Whether a sink slot is filled by the new tokens, and by which of them."""


@dataclass(frozen=True, kw_only=True)
class WindowState(MixerState):
    """Keys and values of the sinks (slot j: position j) and of the last `window` columns.

    It cannot be truncated: what left the window is gone.
    """

    k: Float[Tensor, "b n slots e"]
    v: Float[Tensor, "b n slots e"]
    sink_filled: Bool[Tensor, "b m"]
    """Whether a slot's position has been seen in that row; bookkeeping, not counted in bytes."""
    seen: int
    """Columns so far."""
    window: int
    sinks: int
    capacity: int | None

    @classmethod
    def empty(
        cls,
        size: tuple[int, int, int],
        *,
        window: int,
        sinks: int,
        capacity: int | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Self:
        """No columns yet; `size` is (batch, groups, head_dim)."""
        batch, groups, width = size
        sink_slots = 0 if capacity is None else min(sinks, capacity)
        tail_slots = 0 if capacity is None else min(window, capacity)
        shape = (batch, groups, sink_slots + tail_slots, width)
        return cls(
            k=torch.zeros(shape, device=device, dtype=dtype),
            v=torch.zeros(shape, device=device, dtype=dtype),
            sink_filled=torch.zeros(batch, sink_slots, device=device, dtype=torch.bool),
            seen=0,
            window=window,
            sinks=sinks,
            capacity=capacity,
        )

    @property
    def tail_length(self) -> int:
        """Columns in the tail."""
        return min(self.seen, self.window)

    def nbytes(self) -> int:
        """Bytes of the sink slots and tail columns in use."""
        entries = min(self.seen, self.sinks) + self.tail_length
        batch, groups, _, width = self.k.shape
        return 2 * batch * groups * entries * width * self.k.element_size()

    def sink_slots(self) -> tuple[Tensor, Tensor, Bool[Tensor, "b m"]]:
        """Keys and values of the sink slots, and which are filled."""
        count = self.sink_filled.shape[1]
        return self.k[:, :, :count], self.v[:, :, :count], self.sink_filled

    def ordered_tail(self) -> tuple[Float[Tensor, "b n w e"], Float[Tensor, "b n w e"]]:
        """Keys and values of the tail, oldest column first (views, unless the ring has turned)."""
        count = self.sink_filled.shape[1]
        k, v = self.k[:, :, count:], self.v[:, :, count:]
        if self.capacity is None:
            return k, v
        if self.seen <= self.window:
            return k[:, :, : self.seen], v[:, :, : self.seen]
        turn = self.seen % self.window
        return torch.roll(k, -turn, dims=2), torch.roll(v, -turn, dims=2)

    def tail_columns(self) -> Int[Tensor, " w"]:
        """The column of every tail place as it lies in memory."""
        places = torch.arange(self.tail_length, device=self.k.device)
        if self.capacity is None or self.seen <= self.window:
            return places + (self.seen - self.tail_length)
        newest = self.seen - 1
        return newest - (newest - places) % self.window

    def visible_entries(self, plain: bool) -> tuple[Tensor, Tensor, int]:
        """Keys and values for one query at the newest column, in memory order, and how many.

        With `plain` (positions are columns) sinks that are still in the tail are left out, so that
        no mask is needed; else all slots and the whole tail.
        """
        count = self.sink_filled.shape[1]
        stop = count + self.tail_length
        k, v = self.k[:, :, :stop], self.v[:, :, :stop]
        outside = min(count, self.seen - self.tail_length)
        if plain and outside == 0:
            k, v = k[:, :, count:], v[:, :, count:]
        elif plain and outside < count:
            k = torch.cat((k[:, :, :outside], k[:, :, count:]), 2)
            v = torch.cat((v[:, :, :outside], v[:, :, count:]), 2)
        return k, v, k.shape[2]

    def append(
        self,
        k: Float[Tensor, "b n t e"],
        v: Float[Tensor, "b n t e"],
        context: AttentionContext,
    ) -> Self:
        """The state after these columns too."""
        found = self._find_sinks(context)
        seen, filled = self.seen + k.shape[2], self.sink_filled
        if found is not None:
            extra = found[0].shape[1] - filled.shape[1]
            filled = (F.pad(filled, (0, extra)) if extra else filled) | found[0]
        if self.capacity is None:
            new_k, new_v = self._grown(self.k, k, found), self._grown(self.v, v, found)
            return replace(self, k=new_k, v=new_v, sink_filled=filled, seen=seen)
        if seen > self.capacity and self.capacity < max(self.window, self.sinks):
            raise HydraHeadError(
                f"the cache was allocated for {self.capacity} tokens and cannot hold {seen}",
                mend="ask for a larger one (max_new_tokens, or the capacity of the cache)",
            )
        with torch.no_grad():
            self._write(self.k, k, found)
            self._write(self.v, v, found)
        return replace(self, sink_filled=filled, seen=seen)

    def _find_sinks(self, context: AttentionContext) -> Found | None:
        """Which slots the new tokens fill, and with which of them; None if there is nothing to do.

        It is the same in every layer. Without padding the host knows when all slots are full.
        """
        if self.sinks == 0 or (context.plain and self.seen >= self.sinks):
            return None
        tokens = context.positions.shape[1]
        count = min(self.sinks, self.seen + tokens)
        if self.capacity is not None:
            count = self.sink_filled.shape[1]

        def find() -> Found:
            slots = torch.arange(count, device=context.positions.device)
            match = context.positions[:, None, :] == slots[None, :, None]
            if context.valid is not None:
                match = match & context.valid[:, None, :]
            return match.any(2), match.to(torch.uint8).argmax(2)

        return context.once(("sinks", count), find)

    def _grown(self, old: Tensor, new: Tensor, found: Found | None) -> Tensor:
        count = self.sink_filled.shape[1]
        sinks, tail = old[:, :, :count], old[:, :, count:]
        if found is not None:
            more = found[0].shape[1] - count
            sinks = _with_found(F.pad(sinks, (0, 0, 0, more)), new, found)
        drop = max(tail.shape[2] - max(self.window - new.shape[2], 0), 0)
        newest = max(new.shape[2] - self.window, 0)
        return torch.cat((sinks, tail[:, :, drop:], new[:, :, newest:]), 2)

    def _write(self, storage: Tensor, new: Tensor, found: Found | None) -> None:
        count = self.sink_filled.shape[1]
        sinks, ring = storage[:, :, :count], storage[:, :, count:]
        if found is not None:
            sinks.copy_(_with_found(sinks, new, found))
        size = ring.shape[2]
        tokens = min(new.shape[2], size)
        first = (self.seen + new.shape[2] - tokens) % size
        straight = min(tokens, size - first)
        newest = new[:, :, new.shape[2] - tokens :]
        ring[:, :, first : first + straight] = newest[:, :, :straight]
        if straight < tokens:
            ring[:, :, : tokens - straight] = newest[:, :, straight:]


def _with_found(
    sinks: Float[Tensor, "b n m e"], new: Float[Tensor, "b n t e"], found: Found
) -> Float[Tensor, "b n m e"]:
    """The sinks with the new entries that belong among them."""
    filled, index = found
    wide = index[:, None, :, None].expand(-1, new.shape[1], -1, new.shape[3])
    return torch.where(filled[:, None, :, None], new.gather(2, wide), sinks)
