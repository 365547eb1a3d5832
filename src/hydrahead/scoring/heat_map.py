"""The picture of a score: layers x q_heads, as a PNG beside the numbers."""

from pathlib import Path

import numpy as np


def draw_heat_map(
    values: np.ndarray, path: Path, *, title: str, group_size: int, label: str = "score"
) -> None:
    """Write a PNG of scores.

    Args:
        values: [layer, q_head].
        path: the PNG to write.
        title: one line above the picture.
        group_size: q_heads per kv_head; thin lines part the groups.
        label: what the colour means.
    """
    # Imported here, and with a figure of its own: no display, and nobody's pyplot is touched.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_layers, num_heads = values.shape
    size = (min(2.5 + 0.28 * num_heads, 14.0), min(1.8 + 0.24 * num_layers, 14.0))
    figure = Figure(figsize=size, dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    low, high = min(0.0, float(values.min())), float(values.max())
    image = axes.imshow(
        values, cmap="viridis", vmin=low, vmax=high if high > low else low + 1.0, aspect="auto"
    )
    for edge in range(group_size, num_heads, group_size):
        axes.axvline(edge - 0.5, color="white", linewidth=0.4)
    axes.set_xlabel("q_head")
    axes.set_ylabel("layer")
    axes.set_xticks(range(0, num_heads, max(1, num_heads // 16)))
    axes.set_yticks(range(0, num_layers, max(1, num_layers // 16)))
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axes, label=label)
    figure.tight_layout()
    # The version of matplotlib would otherwise end up in the file and its hash.
    figure.savefig(path, metadata={"Software": None})
