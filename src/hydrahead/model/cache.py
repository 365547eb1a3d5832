"""The cache `generate` carries around: every mixer's state, and the position of every column.

transformers' own caches know keys and values per layer; ours holds states it does not understand
and asks them to count, copy, reorder or truncate themselves. It is a `Cache` only so that
`generate` accepts it.

Invariant: between forwards all states have absorbed the same columns. A forward that dies half-way
leaves the cache unusable, and the next one says so.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache

from hydrahead.core.errors import HydraHeadError
from hydrahead.mixers.contract import MixContext, MixerState

StateFactory = Callable[[int, int | None], list[list[MixerState]]]
"""(batch, capacity) -> empty states, per layer, per mixer."""


class HydraCache(Cache):
    """States of all mixers of all layers.

    Args:
        capacity: tokens to allocate room for; None grows with every call.
    """

    def __init__(self, capacity: int | None = None) -> None:
        super().__init__(layers=[])
        self.capacity = capacity
        self._clear()

    def _clear(self) -> None:
        self.states: list[list[MixerState]] = []
        self._positions: Int[Tensor, "b s"] | None = None
        self._length = 0
        self._midway = False
        self.padded = False
        self.plain = True

    # What the model calls during a forward.

    def begin(self, make_states: StateFactory, context: MixContext) -> None:
        """Before the first layer: make the states on first use."""
        if self._midway:
            raise HydraHeadError(
                "an earlier forward with this cache did not finish, so its layers disagree",
                mend="start again with a fresh cache",
            )
        tokens = self._length + context.positions.shape[1]
        if self.capacity is not None and tokens > self.capacity:
            raise HydraHeadError(
                f"the cache was allocated for {self.capacity} tokens and cannot hold {tokens}",
                mend="ask for a larger one (max_cache_len, or the capacity of the cache)",
            )
        if not self.states:
            self.states = make_states(context.positions.shape[0], self.capacity)
        self._midway = True

    def finish(self, context: MixContext, *, padded: bool, plain: bool) -> None:
        """After the last layer: the new columns belong to the past."""
        positions = context.positions
        if context.valid is not None:
            positions = positions.masked_fill(~context.valid, -1)
        stop = self._length + positions.shape[1]
        if self._positions is None:
            self._positions = positions.new_zeros((positions.shape[0], self.capacity or 0))
        if self.capacity is None:
            self._positions = torch.cat((self._positions, positions), dim=1)
        else:
            self._positions[:, self._length : stop] = positions
        self._length = stop
        self._midway = False
        self.padded, self.plain = padded, plain

    @property
    def past_positions(self) -> Int[Tensor, "b p"] | None:
        """Position of every cached column, -1 for padding; None before the first token."""
        return None if self._positions is None else self._positions[:, : self._length]

    # What callers use.

    def nbytes(self) -> int:
        """Bytes of all states in use."""
        return sum(state.nbytes() for layer in self.states for state in layer)

    def fork(self) -> "HydraCache":
        """An independent copy."""
        other = HydraCache(self.capacity)
        other.states = [[state.fork() for state in layer] for layer in self.states]
        other._positions = None if self._positions is None else self._positions.clone()
        other._length, other._midway = self._length, self._midway
        other.padded, other.plain = self.padded, self.plain
        return other

    def to(self, device: torch.device | str) -> "HydraCache":
        """Move every state to `device`; returns this cache."""
        self._replace(lambda state: state.to(device))
        if self._positions is not None:
            self._positions = self._positions.to(device)
        return self

    # What transformers calls.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns seen so far, padding included."""
        return self._length

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        """(columns a query may see, offset of the first)."""
        tokens = query_length if isinstance(query_length, int) else len(query_length)
        return self._length + tokens, 0

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """Tokens the cache has room for; -1 without limit."""
        return -1 if self.capacity is None else self.capacity

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Tokens the cache has room for; -1 without limit."""
        return self.get_max_cache_shape()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows `beam_idx`, for beam search."""
        self._select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times, copies adjacent."""
        if self._positions is not None:
            rows = torch.arange(self._positions.shape[0], device=self._positions.device)
            self._select(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only the rows `indices` (numbers or a boolean mask)."""
        rows = torch.as_tensor(indices)
        self._select(rows.nonzero().flatten() if rows.dtype == torch.bool else rows)

    def crop(self, max_length: int) -> None:
        """Keep the first `max_length` columns; a negative number drops that many, 0 drops none.

        Raises:
            HydraHeadError: a mixer's state cannot give up what it has absorbed.
        """
        length = max_length if max_length > 0 else self._length + max_length
        if length >= self._length:
            return
        if not self.is_croppable:
            stuck = {type(s).__name__ for layer in self.states for s in layer if not s.can_truncate}
            raise HydraHeadError(
                f"this cache cannot drop tokens: {', '.join(sorted(stuck))} has absorbed them",
                mend="fork() the cache before the tokens that may be dropped",
            )
        length = max(length, 0)
        self._replace(lambda state: state.truncate(length))
        self._length = length
        if self._positions is not None and self.capacity is None:
            self._positions = self._positions[:, :length]

    def reset(self) -> None:
        """Forget everything."""
        self._clear()

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Not for a cache of states: mixers return theirs instead."""
        raise NotImplementedError("a HydraCache is updated by the model's own mixers")

    @property
    def is_compileable(self) -> bool:
        """False: `generate` would compile by itself and hand forward a dict of masks."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether there are states."""
        return bool(self.states)

    @property
    def is_croppable(self) -> bool:
        """Whether every state can drop its newest tokens."""
        return all(state.can_truncate for layer in self.states for state in layer)

    @property
    def is_sliding(self) -> list[bool]:
        """No layer of ours is transformers' sliding kind."""
        return [False] * len(self.states)

    @property
    def is_linear(self) -> list[bool]:
        """Never all True: `generate` takes that for a cache that cannot tell its length."""
        return [False] * max(1, len(self.states))

    @property
    def batch_size(self) -> int:
        """Rows, -1 before the first token."""
        return -1 if self._positions is None else self._positions.shape[0]

    @property
    def max_batch_size(self) -> int:
        """Rows, -1 before the first token."""
        return self.batch_size

    @property
    def max_cache_len(self) -> int:
        """Tokens the cache has room for; -1 without limit."""
        return self.get_max_cache_shape()

    def __len__(self) -> int:
        return len(self.states)

    def __repr__(self) -> str:
        kind = "growing" if self.capacity is None else f"capacity={self.capacity}"
        return f"HydraCache({kind}, tokens={self._length}, layers={len(self.states)})"

    def _select(self, rows: Int[Tensor, " rows"]) -> None:
        self._replace(lambda state: state.reorder(rows))
        if self._positions is not None:
            self._positions = self._positions.index_select(0, rows.to(self._positions.device))

    def _replace(self, change: Callable[[MixerState], MixerState]) -> None:
        self.states = [[change(state) for state in layer] for layer in self.states]


def require_hydra_cache(cache: object) -> None:
    """Refuse anything but a `HydraCache`.

    Raises:
        HydraHeadError: another kind of cache was passed.
    """
    if not isinstance(cache, HydraCache):
        raise HydraHeadError(
            f"a {type(cache).__name__} cannot hold the states of a hybrid",
            mend="pass past_key_values=None (a HydraCache is made), or a HydraCache",
        )


def prepare_cache(cache_implementation: str | None, capacity: int) -> HydraCache:
    """The cache for `generate`'s `cache_implementation`.

    Args:
        cache_implementation: None or "dynamic" grows; "static" is allocated once.
        capacity: tokens a static cache must hold.

    Raises:
        HydraHeadError: any other implementation.
    """
    known: dict[str | None, int | None] = {None: None, "dynamic": None, "static": capacity}
    if cache_implementation not in known:
        raise HydraHeadError(
            f"cache_implementation {cache_implementation!r} does not work with hybrids",
            mend=f"use {_listed([name for name in known if name])}, or leave it out",
        )
    return HydraCache(known[cache_implementation])


def _listed(names: Sequence[str]) -> str:
    return " or ".join(repr(name) for name in names)
