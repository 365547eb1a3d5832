"""How far fine-tuning has moved each W_Q, W_K and W_V, relative to its size before.

change = ||W(post) - W(pre)||_F / ||W(pre)||_F        over the rows of the units' heads
"""

import math
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from hydrahead.transfer.surgery_patches import PIECE_BYTES, RowSource
from hydrahead.transfer.surgery_rows import AttentionUnits, HeadRows, Kind, Span


class UnitChange(BaseModel):
    """The relative change of one mixer's projections."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int
    kind: Kind
    q: float
    k: float
    v: float | None


def unit_changes(
    units: Sequence[AttentionUnits], pre: RowSource, post: RowSource
) -> tuple[UnitChange, ...]:
    """The change of every unit; a few megabytes are held at a time."""
    return tuple(
        UnitChange(
            layer=unit.layer,
            kind=unit.kind,
            q=_change(unit.q, pre, post),
            k=_change(unit.k, pre, post),
            v=None if unit.v is None else _change(unit.v, pre, post),
        )
        for unit in units
    )


def _change(rows: HeadRows, pre: RowSource, post: RowSource) -> float:
    name = f"{rows.module}.weight"
    moved = size = 0.0
    for span in _pieces(rows.spans(), pre.shape(name)):
        before, after = pre.rows(name, span).double(), post.rows(name, span).double()
        size += float(before.square().sum())
        moved += float((after - before).square().sum())
    if size == 0.0:
        return 0.0 if moved == 0.0 else math.inf
    return math.sqrt(moved / size)


def _pieces(spans: Sequence[Span], shape: tuple[int, ...]) -> Iterator[Span]:
    step = max(1, PIECE_BYTES // (8 * math.prod(shape[1:])))
    for start, stop in spans:
        for first in range(start, stop, step):
            yield first, min(first + step, stop)
