"""What the host knows of one forward pass's tokens, beyond the tensors of a `MixContext`.

Softmax attention picks its route (no mask, a mask, one document at a time) before any kernel runs.
Finding that out from tensors would make the host wait for the device in every layer, so the model
finds it out once per forward and hands it down here. A bare `MixContext` works as well; its facts
are then computed on demand.
"""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from hydrahead.mixers.contract import MixContext

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Where the documents of packed rows lie."""

    bounds: tuple[tuple[int, int, int], ...]
    """(row, start, stop) of every document, row by row."""
    cu_seqlens: Int[Tensor, " documents_plus_one"]
    """Offsets of the documents when the rows are laid end to end (int32, on the device)."""

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max(stop - start for _, start, stop in self.bounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionContext(MixContext):
    """A `MixContext` with its facts.

    `padded`: some column, cached or new, of some row is padding. `plain`: nothing is padded or
    packed, and every position is its column, so that masks follow from sizes alone.
    """

    padded: bool = False
    plain: bool = False
    packing: Packing | None = None
    _found: dict[tuple[object, ...], Any] = field(default_factory=dict, init=False)

    def once(self, key: tuple[object, ...], find: Callable[[], Value]) -> Value:
        """What `find` gives, found by the first layer that asks for `key` and kept for the others.

        For what follows from the tokens alone: it is the same in every layer. It is kept as long as
        the forward pass lasts, so it must be small.
        """
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]


def with_facts(context: MixContext) -> AttentionContext:
    """The context with its facts; computed here, waiting for the device, only if it has none."""
    if isinstance(context, AttentionContext):
        return context
    padded = context.valid is not None and not bool(context.valid.all())
    if context.past_positions is not None:
        padded = padded or bool((context.past_positions < 0).any())
    packing = None if context.documents is None else find_packing(context.documents)
    known = {field.name: getattr(context, field.name) for field in dataclasses.fields(MixContext)}
    return AttentionContext(**known, padded=padded, plain=False, packing=packing)


def find_packing(documents: Int[Tensor, "b t"]) -> Packing:
    """The documents of packed rows, from one id per token that changes where a document starts."""
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    offsets = starts.flatten().nonzero().flatten()
    total = torch.tensor([documents.numel()], device=documents.device)
    cu_seqlens = torch.cat((offsets, total)).to(torch.int32)
    length = documents.shape[1]
    edges = cu_seqlens.tolist()
    bounds = tuple(
        (first // length, first % length, first % length + last - first)
        for first, last in itertools.pairwise(edges)
    )
    return Packing(bounds=bounds, cu_seqlens=cu_seqlens)


def key_validity(context: MixContext) -> torch.Tensor:
    """Which of the s columns are real tokens, Bool [b, s]: the cached ones, then the new ones."""
    new = context.valid
    if new is None:
        new = torch.ones_like(context.positions, dtype=torch.bool)
    if context.past_positions is None:
        return new
    return torch.cat((context.past_positions >= 0, new), dim=1)
