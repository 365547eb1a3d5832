"""Rows of stored projections, head by head: what surgery moves from one checkpoint to another."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["full", "window", "linear"]
Span = tuple[int, int]
"""[start, stop) in the leading axis of a tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRows:
    """The rows of one role (q, k or v) in a layer's stored projection.

    A fused tensor (query and gate, or q, k and v together) has rows that belong to nobody here.
    """

    module: str
    """The tensors are `module.weight` [rows, d] and, if there is one, `module.bias` [rows]."""
    heads: tuple[Span, ...]
    """The rows of every head, in head order, equally many each."""
    norm: str | None
    """The weight of the role's norm, if it has one."""

    def spans(self) -> tuple[Span, ...]:
        """The rows of all heads, touching ones joined, ascending."""
        joined: list[Span] = []
        for start, stop in sorted(self.heads):
            if joined and joined[-1][1] == start:
                joined[-1] = (joined[-1][0], stop)
            else:
                joined.append((start, stop))
        return tuple(joined)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionUnits:
    """The heads of one mixer of one layer."""

    layer: int
    kind: Kind
    q: HeadRows
    k: HeadRows
    v: HeadRows | None
    """None where no rows are known to be values alone."""
    kv_of_q: tuple[int, ...]
    """For every head of `q` the head of `k` that it reads."""


def by_head(
    count: int, width: int, *, first: int = 0, stride: int | None = None
) -> tuple[Span, ...]:
    """Spans of `count` heads of `width` rows, `stride` rows apart (without a gap if None)."""
    step = width if stride is None else stride
    return tuple((first + i * step, first + i * step + width) for i in range(count))
