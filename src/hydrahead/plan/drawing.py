"""Pictures of plans and scores for the terminal; they read without colour and fit 80 columns.

Maps have a row per layer and a character per unit. Where a layer has more units than a line holds,
its row takes several lines.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from string import ascii_letters

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hydrahead.plan.budget import format_bytes, format_tokens
from hydrahead.plan.cost import PlanCost
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.scores import HeadScores
from hydrahead.plan.specs.base import MixerSpec

CONTEXTS = (8 * 1024, 32 * 1024, 128 * 1024, 512 * 1024, 1024 * 1024)
"""Tokens the cost table is made for."""

_PREFERRED = {"full": "#", "window": "w", "gated_delta": ".", "lightning": "~", "mamba2": "m"}
_COLOURS = ("bold green", "cyan", "magenta", "yellow", "blue", "red")
_LINE = 64
"""Characters of a map's row on one line, spaces included."""


def draw_plan(plan: HeadPlan) -> RenderableType:
    """The layers x units map of `plan`, and its legend."""
    marks = plan_marks(plan)
    counts = Counter(spec for layer in plan.layers for spec in (*layer.units, *layer.parallel))
    group = plan.geometry.group_size if plan.unit == "q_head" else 1
    rows: list[tuple[str, Text, str]] = []
    for index, layer in enumerate(plan.layers):
        cells = [Text(*marks[spec]) for spec in layer.units]
        notes = [f"{sum(spec.name == 'full' for spec in layer.units)} full"]
        notes += [f"+ {spec.beside or spec.name}" for spec in layer.parallel]
        window = plan.geometry.layer_windows[index]
        if window is not None:
            notes = [f"own window {window}", *notes[1:]]
        rows.append((str(index), _spaced(cells, group), ", ".join(notes)))
    legend = [
        Text.assemble(marks[spec], f" {_describe(spec)}: {counts[spec]}")
        for spec in plan.distinct_specs()
    ]
    title = Text(
        f"{plan.geometry.family}, {plan.geometry.num_layers} layers x {plan.units_per_layer} "
        f"{plan.unit}s, full_fraction {plan.full_fraction:.4g}"
    )
    return Group(title, _grid(rows), *legend)


def draw_scores(scores: HeadScores) -> RenderableType:
    """The layers x q_heads heat map of `scores`: tenths of the largest, "." where exactly zero."""
    values = scores.values
    largest = float(values.max())
    scale = largest if largest > 0 else 1.0
    rows: list[tuple[str, Text, str]] = []
    for layer, row in enumerate(values):
        cells = [_score_cell(float(value), scale) for value in row]
        spaced = _spaced(cells, scores.geometry.group_size)
        rows.append((str(layer), spaced, f"{float(row.max()):.3g}"))
    title = Text(
        f"{scores.method} scores, {scores.geometry.num_layers} layers x "
        f"{scores.geometry.num_q_heads} q_heads; at the right each layer's largest"
    )
    facts = [f"largest {largest:.4g}", f"exactly zero {scores.zero_fraction:.1%}"]
    reliability: list[str] = []
    for name, value in (
        ("split-half reliability", scores.split_half_reliability),
        ("of non-zero heads", scores.split_half_non_zero),
    ):
        if value is not None:
            reliability.append(f"{name} {value:.3f}")
    legend = Text(". zero   0-9 tenths of the largest   - below zero")
    lines = [Text(", ".join(line)) for line in (facts, reliability) if line]
    return Group(title, _grid(rows), legend, *lines)


def draw_cost(
    plan: HeadPlan,
    contexts: Sequence[int] = CONTEXTS,
    *,
    batch: int = 1,
    kv_dtype: str = "bfloat16",
) -> RenderableType:
    """What `plan` costs at some context lengths, beside the teacher's own attention."""
    teacher = HeadPlan.all_full(plan.geometry)
    table = Table(
        title=f"cost of {batch} sequence{'s' if batch > 1 else ''}, {kv_dtype}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for heading in ("context", "kv", "state", "kv + state", "of full", "flops/token", "of full"):
        table.add_column(heading, justify="right", no_wrap=True)
    for context in contexts:
        cost = plan.cost(context, batch, kv_dtype)
        full = teacher.cost(context, batch, kv_dtype)
        table.add_row(format_tokens(context), *_cost_cells(cost, full))
    return table


def plan_marks(plan: HeadPlan) -> dict[MixerSpec, tuple[str, str]]:
    """A character and a colour for every spec of `plan`; no two share a character."""
    marks: dict[MixerSpec, tuple[str, str]] = {}
    taken: set[str] = set()
    for spec, colour in zip(plan.distinct_specs(), _cycled_colours(), strict=False):
        wishes = chain(_PREFERRED.get(spec.name, ""), spec.name, ascii_letters)
        mark = next((wish for wish in wishes if wish not in taken and wish != "_"), "?")
        taken.add(mark)
        marks[spec] = (mark, colour)
    return marks


def _cycled_colours() -> Sequence[str]:
    return _COLOURS * 32


def _describe(spec: MixerSpec) -> str:
    """The spec's name, and the settings that differ from their defaults."""
    fields = type(spec).model_fields
    changed = [
        f"{name}={value}"
        for name, value in spec.model_dump().items()
        if name != "name" and (fields[name].is_required() or value != fields[name].default)
    ]
    return f"{spec.name}({', '.join(changed)})" if changed else spec.name


def _score_cell(value: float, scale: float) -> Text:
    if value == 0:
        return Text(".", "dim")
    if value < 0:
        return Text("-", "blue")
    tenth = min(int(10 * value / scale), 9)
    return Text(str(tenth), ("dim", "cyan", "green", "yellow", "bold red")[tenth // 2])


def _spaced(cells: Sequence[Text], group: int) -> Text:
    """The cells of a row, groups apart, broken into lines of at most `_LINE` characters."""
    groups = [cells[start : start + group] for start in range(0, len(cells), group)]
    gap = 1 if group > 1 else 0
    per_line = max(1, (_LINE + gap) // (group + gap))
    row = Text()
    for index, members in enumerate(groups):
        if index:
            row.append("\n" if index % per_line == 0 else " " * gap)
        for cell in members:
            row.append_text(cell)
    return row


def _grid(rows: Sequence[tuple[str, Text, str]]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", style="dim")
    grid.add_column(no_wrap=True)
    grid.add_column(style="dim", overflow="fold")
    for label, cells, note in rows:
        grid.add_row(label, cells, note)
    return grid


def _cost_cells(cost: PlanCost, full: PlanCost) -> tuple[str, ...]:
    return (
        format_bytes(cost.kv_bytes),
        format_bytes(cost.state_bytes),
        format_bytes(cost.total_bytes),
        _percent(cost.total_bytes, full.total_bytes),
        _operations(cost.flops),
        _percent(cost.flops, full.flops),
    )


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _operations(count: int) -> str:
    for factor, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "K")):
        if count >= factor:
            return f"{count / factor:.3g} {letter}"
    return str(count)
