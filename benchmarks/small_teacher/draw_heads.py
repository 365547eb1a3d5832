"""The README's picture: which q_heads of the small teacher fetch facts, and the plan that follows.

    python benchmarks/small_teacher/draw_heads.py docs/images/heads.png

Reads the retrieval scores bundled with the teacher; nothing is drawn that they do not say.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from hydrahead import HeadScores, make_plan
from hydrahead.recipes.demo import SMALL_TEACHER

FULL, LINEAR = "#c2410c", "#e7e5e4"
CONTEXT = 131072


def main() -> None:
    """Draw scores and plan side by side."""
    scores = HeadScores.load(SMALL_TEACHER.with_name("small_teacher_scores"))
    plan = make_plan(scores, full_fraction=0.25).plan
    geometry = scores.geometry
    full = np.array(
        [
            [plan.spec_at(layer, unit).name == "full" for unit in range(geometry.num_kv_heads)]
            for layer in range(geometry.num_layers)
        ]
    )
    every = type(plan).all_full(geometry).cost(CONTEXT).total_bytes
    saved = 1 - plan.cost(CONTEXT).total_bytes / every
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    image = left.imshow(scores.values, cmap="Oranges", vmin=0, aspect="auto")
    left.set(title="retrieval score", xlabel="q_head", ylabel="layer")
    figure.colorbar(image, ax=left, shrink=0.9)
    right.imshow(full, cmap=ListedColormap([LINEAR, FULL]), aspect="auto")
    right.set(
        title=f"full_fraction 0.25: {saved:.0%} less cache at 128K",
        xlabel="kv_head",
        xticks=range(geometry.num_kv_heads),
    )
    for axes, columns in ((left, geometry.num_q_heads), (right, geometry.num_kv_heads)):
        axes.set_yticks(range(geometry.num_layers))
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(geometry.num_layers + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=2)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
    right.legend(
        handles=[Patch(color=FULL, label="full"), Patch(color=LINEAR, label="gated_delta")],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncols=2,
        frameon=False,
    )
    figure.savefig(Path(sys.argv[1]), dpi=130)


if __name__ == "__main__":
    main()
