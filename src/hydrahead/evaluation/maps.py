"""Maps as SVG: which mixer runs where, what a head scored, where a needle was found.

Drawn by hand rather than plotted: a cell has a tooltip, the text is the page's own, and the picture
scales with the page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from hydrahead.evaluation.results import Cell
from hydrahead.evaluation.statistics import Summary
from hydrahead.plan.budget import format_tokens
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.scores import HeadScores
from hydrahead.plan.specs.base import MixerSpec

_MIXER_COLOURS = {
    "full": "#1f4e79",
    "gated_delta": "#f2c879",
    "lightning": "#e39a7b",
    "window": "#8fc1a9",
}
_SPARE_COLOURS = ("#b39ddb", "#90a4ae", "#d7a9c4", "#a5b96b", "#c0a080", "#7fb2d6")
_LABEL = 34
_INK, _PAPER = "#1d2530", "#ffffff"

Colour = tuple[int, int, int]
_GOOD: tuple[Colour, ...] = ((251, 239, 226), (246, 205, 150), (120, 178, 170), (22, 96, 110))
_HEAT: tuple[Colour, ...] = ((247, 247, 244), (247, 214, 150), (226, 121, 73), (124, 29, 41))


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendEntry:
    """A colour and what it stands for."""

    colour: str
    text: str


def plan_map(plan: HeadPlan) -> tuple[str, list[LegendEntry]]:
    """Layers from left to right, units from top to bottom, a colour per spec; and the legend."""
    specs = [spec for layer in plan.layers for spec in layer.units]
    labels = _spec_labels(list(dict.fromkeys(specs)))
    colours = _spec_colours(list(labels))

    def cell(unit: int, layer: int) -> tuple[str, str, str]:
        spec = plan.layers[layer].units[unit]
        return colours[spec], f"layer {layer}, {plan.unit} {unit}: {labels[spec]}", ""

    svg = _grid(
        rows=[str(unit) for unit in range(plan.units_per_layer)],
        columns=[str(layer) for layer in range(plan.geometry.num_layers)],
        cell=cell,
        row_title=plan.unit,
        column_title="layer",
        label=f"plan: {plan.unit}s by layers",
        row_group=plan.geometry.group_size if plan.unit == "q_head" else 1,
    )
    legend = [
        LegendEntry(colour=colours[spec], text=f"{text}: {specs.count(spec)} of {len(specs)}")
        for spec, text in labels.items()
    ]
    return svg, legend


def _spec_colours(specs: Sequence[MixerSpec]) -> dict[MixerSpec, str]:
    """A colour of its own per spec; the first of a known mixer has the mixer's usual one."""
    spare = cycle(_SPARE_COLOURS)
    colours: dict[MixerSpec, str] = {}
    for spec in specs:
        wish = _MIXER_COLOURS.get(spec.name)
        colours[spec] = next(spare) if wish is None or wish in colours.values() else wish
    return colours


def score_map(scores: HeadScores) -> str:
    """Layers from left to right, q_heads from top to bottom, darker where the score is higher."""
    values: NDArray[np.float64] = scores.values
    low, high = min(0.0, float(values.min())), float(values.max())
    span = high - low or 1.0

    def cell(head: int, layer: int) -> tuple[str, str, str]:
        value = float(values[layer, head])
        colour = _blend(_HEAT, (value - low) / span)
        return colour, f"layer {layer}, q_head {head}: {value:.4g}", ""

    return _grid(
        rows=[str(head) for head in range(values.shape[1])],
        columns=[str(layer) for layer in range(values.shape[0])],
        cell=cell,
        row_title="q_head",
        column_title="layer",
        label=f"{scores.method} scores: q_heads by layers",
        row_group=scores.geometry.group_size,
    )


def needle_map(cells: Sequence[Cell]) -> str:
    """One model: lengths from left to right, depths from top to bottom, percent in every cell."""
    lengths = sorted({cell.length for cell in cells})
    by_place = {(cell.depth, cell.length): cell.summary for cell in cells}
    depths = _depths(cells)
    return _grid(
        rows=[f"{depth:.0%}" for depth in depths],
        columns=[format_tokens(length) for length in lengths],
        cell=lambda row, column: _share(by_place.get((depths[row], lengths[column]))),
        row_title="depth",
        column_title="tokens",
        label="needle found, in percent, by depth and length",
        size=(max(38, min(56, 300 // max(1, len(lengths)))), 26),
    )


def needle_strips(named: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """Models from top to bottom at one length, depths from left to right, percent in every cell."""
    depths = _depths([cell for _, cells in named for cell in cells])
    found = [{cell.depth: cell.summary for cell in cells} for _, cells in named]
    return _grid(
        rows=[name for name, _ in named],
        columns=[f"{depth:.0%}" for depth in depths],
        cell=lambda row, column: _share(found[row].get(depths[column])),
        row_title="",
        column_title="depth",
        label="needle found, in percent, by model and depth",
        size=(44, 26),
    )


def _depths(cells: Sequence[Cell]) -> list[float]:
    return sorted({cell.depth for cell in cells if cell.depth is not None})


def _share(summary: Summary | None) -> tuple[str, str, str]:
    """Colour, tooltip and text of a share of right answers."""
    if summary is None:
        return "#eeeeee", "not evaluated", ""
    tooltip = f"{summary.mean:.1%} of {summary.n} (95 %: {summary.low:.1%} to {summary.high:.1%})"
    return _blend(_GOOD, summary.mean), tooltip, f"{100 * summary.mean:.0f}"


def _spec_labels(specs: Sequence[MixerSpec]) -> dict[MixerSpec, str]:
    """A name per spec: its mixer, what must be set, and what tells it from others of its mixer."""
    labels: dict[MixerSpec, str] = {}
    for spec in specs:
        fields = type(spec).model_fields
        namesakes = [other for other in specs if other.name == spec.name]
        shown = [
            f"{field} {value}"
            for field, value in spec.model_dump().items()
            if field != "name"
            and (
                fields[field].is_required()
                or any(getattr(other, field) != getattr(spec, field) for other in namesakes)
            )
            and field != "normalise_output"
        ]
        labels[spec] = f"{spec.name} ({', '.join(shown)})" if shown else spec.name
    return labels


def _grid(
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    cell: Callable[[int, int], tuple[str, str, str]],
    row_title: str,
    column_title: str,
    label: str,
    size: tuple[int, int] | None = None,
    row_group: int = 1,
) -> str:
    """A grid of coloured cells; `cell(row, column)` gives colour, tooltip and text."""
    width, height = size or _cell_size(len(rows), len(columns))
    widest = max((len(row) for row in rows), default=0)
    left, top = max(_LABEL, 10 + round(6.2 * widest)) + (18 if row_title else 0), 4
    gap = 3 if row_group > 1 else 0
    bottom = top + len(rows) * height + (len(rows) - 1) // row_group * gap
    right = left + len(columns) * width
    parts: list[str] = []
    every_row, every_column = max(1, round(13 / height)), max(1, round(22 / width))
    for row, name in enumerate(rows):
        y = top + row * height + row // row_group * gap
        if row % every_row == 0:
            parts.append(_text(left - 6, y + height / 2 + 3.5, name, anchor="end"))
        for column in range(len(columns)):
            colour, tooltip, text = cell(row, column)
            x = left + column * width
            parts.append(
                f'<rect x="{x}" y="{y}" width="{width - 1}" height="{height - 1}" rx="1.5" '
                f'fill="{colour}"><title>{escape(tooltip)}</title></rect>'
            )
            if text:
                ink = _PAPER if _is_dark(colour) else _INK
                middle = x + (width - 1) / 2
                parts.append(_text(middle, y + height / 2 + 3.5, text, fill=ink))
    for column, name in enumerate(columns):
        if column % every_column == 0:
            parts.append(_text(left + (column + 0.5) * width, bottom + 13, name))
    parts.append(_text((left + right) / 2, bottom + 28, column_title, kind="axis"))
    middle = (top + bottom) / 2
    if row_title:
        parts.append(
            f'<g transform="rotate(-90 10 {middle:g})">'
            f"{_text(10, middle + 3.5, row_title, kind='axis')}</g>"
        )
    total_width, total_height = max(right + 6, left + 60), max(bottom + 34, 90)
    return (
        f'<svg class="map" viewBox="0 0 {total_width} {total_height}" width="{total_width}" '
        f'role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _cell_size(rows: int, columns: int) -> tuple[int, int]:
    side = max(7, min(22, 420 // max(1, columns), 420 // max(1, rows)))
    return side, side


def _text(
    x: float, y: float, text: str, *, anchor: str = "middle", fill: str = "", kind: str = "tick"
) -> str:
    colour = f' style="fill:{fill}"' if fill else ""
    return (
        f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}"{colour}>'
        f"{escape(text)}</text>"
    )


def _blend(stops: Sequence[Colour], share: float) -> str:
    """The colour at `share` (0 ... 1) of a ramp."""
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    index = min(int(place), len(stops) - 2)
    rest = place - index
    mixed = [round(a + (b - a) * rest) for a, b in zip(stops[index], stops[index + 1], strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _is_dark(colour: str) -> bool:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140
