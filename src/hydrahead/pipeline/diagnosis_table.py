"""What a diagnosis and a restoration have to say, as tables for the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from hydrahead.pipeline.diagnose import MODELS, Diagnosis, read_diagnosis, recovery
from hydrahead.transfer.surgery_report import UnitChange


def diagnosis_outcome(out: Path) -> tuple[dict[str, Any], list[RenderableType]]:
    """A diagnosis as plain JSON, and as one table with the verdict below it."""
    found = read_diagnosis(out)
    far = recovery(found)
    verdict = (
        f"far needles: fine-tuning cost {far['lost']:.3f} ({far['lost_error']:.3f}) of recall, "
        f"restoring gives back {far['back']:.3f} ({far['back_error']:.3f})"
    )
    return {"far": far, **found.model_dump(mode="json")}, [diagnosis_table(found), verdict]


def change_table(changes: Sequence[UnitChange]) -> Table:
    """A line per mixer."""
    table = Table(box=None, pad_edge=False)
    for name in ("layer", "kind"):
        table.add_column(name)
    for name in ("W_Q", "W_K", "W_V"):
        table.add_column(name, justify="right")
    for change in changes:
        values = [_percent(value) for value in (change.q, change.k, change.v)]
        table.add_row(str(change.layer), change.kind, *values)
    return table


def diagnosis_table(found: Diagnosis) -> Table:
    """Recall, attention distance and drift, before, after and restored."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in MODELS:
        table.add_column(name, justify="right")
    for rows in zip(*(found.recall[name] for name in MODELS), strict=True):
        cells = [f"{row.summary.mean:.3f} ({row.summary.standard_error:.3f})" for row in rows]
        table.add_row(f"recall, {rows[0].distance} tokens back", *cells)
    for looks in zip(*(found.attention[name] for name in MODELS), strict=True):
        cells = [f"{look.mean_distance:.1f}" for look in looks]
        table.add_row(f"layer {looks[0].layer}: attention distance", *cells)
    for change in found.changes:
        moved = f"{100 * change.q:.2f}, {100 * change.k:.2f} %"
        table.add_row(f"layer {change.layer}, {change.kind}: moved (Q, K)", "", moved, "")
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
