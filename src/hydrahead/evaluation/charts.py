"""Curves as SVG, drawn by matplotlib without a display; the text stays text in the page's font."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from hydrahead.plan.budget import format_tokens

MODEL_COLOURS = (
    "#1f4e79",
    "#c8553d",
    "#2a9d8f",
    "#8d6a9f",
    "#d99a2b",
    "#5b8db8",
    "#6b705c",
    "#b5838d",
)
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "hydrahead",
    "axes.edgecolor": "#9aa3ad",
    "axes.labelcolor": "#4a5562",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e9ed",
    "grid.linewidth": 0.8,
    "xtick.color": "#4a5562",
    "ytick.color": "#4a5562",
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "lines.linewidth": 1.6,
}
_SIZE = (3.35, 2.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points of one line; `low` and `high` bound its uncertainty where it is known."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    colour: str = MODEL_COLOURS[0]


def curves(
    lines: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    label: str,
    as_percent: bool = False,
    token_ticks: Sequence[int] | None = None,
    log_y: bool = False,
) -> str:
    """One picture of several curves.

    Args:
        lines: what to draw, in the order of the legend, which is the page's and not the picture's.
        x_label: below the axis.
        y_label: beside the axis.
        label: what the picture shows, for those who cannot see it.
        as_percent: y is a share; the axis runs from 0 to 100 %.
        token_ticks: x are these numbers of tokens, on a logarithmic axis.
        log_y: logarithmic y axis.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            few = len(line.x) <= 20
            axes.plot(
                line.x, line.y, color=line.colour, marker="o" if few else None, markersize=3.5
            )
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.14, lw=0)
        if token_ticks is not None:
            axes.set_xscale("log")
            axes.set_xticks(list(token_ticks), [format_tokens(tick) for tick in token_ticks])
            axes.minorticks_off()
        if as_percent:
            axes.set_ylim(-0.04, 1.04)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
        if log_y and all(value > 0 for line in lines for value in line.y):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _as_svg(figure, label)


def dots(names: Sequence[str], groups: Sequence[tuple[str, Sequence[Any]]], *, label: str) -> str:
    """Means with their 95 % intervals, a row per task and a dot per model.

    Args:
        names: the rows.
        groups: (colour, a `Summary` or None per row) of every model.
        label: what the picture shows, for those who cannot see it.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    step = 0.8 / max(1, len(groups))
    with mpl.rc_context(_STYLE):
        height = 0.7 + len(names) * max(0.34, 0.17 * len(groups))
        figure = Figure(figsize=(2 * _SIZE[0], height), layout="constrained")
        axes = figure.add_subplot()
        for number, (colour, summaries) in enumerate(groups):
            offset = (number - (len(groups) - 1) / 2) * step
            for row, summary in enumerate(summaries):
                if summary is None:
                    continue
                y = row + offset
                axes.plot([summary.low, summary.high], [y, y], color=colour, lw=1.4, alpha=0.6)
                axes.plot([summary.mean], [y], "o", color=colour, markersize=5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), list(names))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        for row in range(1, len(names)):
            axes.axhline(row - 0.5, color="#e6e9ed", lw=0.8)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
        return _as_svg(figure, label)


def _as_svg(figure: Any, label: str) -> str:
    """The figure as an element of a page: no prologue, no ids that could clash, the page's font."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = svg.replace("'DejaVu Sans', sans-serif", "inherit")
    svg = re.sub(r"font: ([\d.]+px) 'DejaVu Sans'(, [^;\"]*)?", r"font-size: \1", svg)
    opening = svg[: svg.index(">") + 1]
    width, height = re.findall(r'(?:width|height)="([\d.]+)pt"', opening)[:2]
    new = (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}" width="{float(width) * 4 / 3:.0f}">'
    )
    return new + svg[len(opening) :]
