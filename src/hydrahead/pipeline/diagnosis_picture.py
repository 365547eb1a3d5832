"""The diagnosis as a picture: recall by distance, attention by distance, drift by layer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrahead.pipeline.attention_distance import EDGES

if TYPE_CHECKING:
    from hydrahead.pipeline.diagnose import Diagnosis

_COLOURS = {"before": "#4c72b0", "after": "#c44e52", "restored": "#55a868"}


def draw_diagnosis(found: "Diagnosis", path: Path) -> None:
    """Write the PNG."""
    # Imported here, and with a figure of its own: no display, and nobody's pyplot is touched.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 3.8), dpi=120)
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, 3)
    _recall(axes[0], found)
    _attention(axes[1], found)
    _drift(axes[2], found)
    figure.tight_layout()
    # The version of matplotlib would otherwise end up in the file and its hash.
    figure.savefig(path, metadata={"Software": None})


def _recall(axes: Any, found: "Diagnosis") -> None:
    for name, entries in found.recall.items():
        axes.errorbar(
            [entry.distance for entry in entries],
            [entry.summary.mean for entry in entries],
            yerr=[entry.summary.standard_error for entry in entries],
            color=_COLOURS[name],
            marker="o",
            capsize=3,
            label=name,
        )
    axes.set_ylim(-0.05, 1.05)
    axes.set_xlabel("distance of the needle (tokens)")
    axes.set_ylabel("recall")
    axes.set_title(f"{found.task}, {found.length} tokens", fontsize=9)
    axes.legend()


def _attention(axes: Any, found: "Diagnosis") -> None:
    last = max(
        i
        for layers in found.attention.values()
        for layer in layers
        for i, share in enumerate(layer.shares)
        if share > 0
    )
    places = range(last + 1)
    width = 0.8 / len(found.attention)
    for number, (name, layers) in enumerate(found.attention.items()):
        means = [sum(layer.shares[i] for layer in layers) / len(layers) for i in places]
        axes.bar(
            [place + (number - 1) * width for place in places],
            means,
            width=width,
            color=_COLOURS[name],
            label=name,
        )
    axes.set_xticks(list(places), [f"{EDGES[i]}+" for i in places])
    axes.set_xlabel("distance (tokens)")
    axes.set_ylabel("share of attention")
    axes.set_title("full-attention heads, at the question", fontsize=9)


def _drift(axes: Any, found: "Diagnosis") -> None:
    for kind, marker in (("full", "o"), ("window", "s"), ("linear", "x")):
        units = [change for change in found.changes if change.kind == kind]
        if not units:
            continue
        layers = [change.layer for change in units]
        for role, colour in (("q", "#4c72b0"), ("k", "#dd8452")):
            values = [getattr(change, role) for change in units]
            label = f"W_{role.upper()}, {kind}"
            axes.scatter(layers, values, marker=marker, color=colour, label=label, s=22)
    largest = max((max(change.q, change.k) for change in found.changes), default=0.0)
    axes.set_ylim(0, 1.15 * largest or 1.0)
    axes.set_xlabel("layer")
    axes.set_ylabel("relative change")
    axes.set_title("what fine-tuning moved", fontsize=9)
    axes.legend(fontsize=7)
