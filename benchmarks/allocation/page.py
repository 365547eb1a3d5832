"""A page of docs/results and its pictures from the JSON file of the same name: no figure is typed.

python benchmarks/allocation/page.py [allocation | allocation_small]
"""

import json
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
TASKS = {
    "niah_single": "1 needle",
    "niah_multikey:keys=8": "8 keys",
    "niah_multivalue": "several values",
    "mqar": "word pairs",
}
Runs = list[dict[str, Any]]


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows]]


def spread(values: list[float], form: str) -> str:
    """The mean, and the standard deviation over seeds where there are several."""
    text = format(mean(values), form)
    return text if len(values) < 2 else f"{text} \u00b1 {format(stdev(values), form)}"


def share(measured: dict[str, Any], task: str) -> float:
    """Right answers to one task in percent."""
    found = measured["recall"][task]
    return 100 * found["right"] / found["n"]


def by_arm(result: dict[str, Any], fraction: float) -> dict[str, Runs]:
    """The hybrids of one budget, seeds in order; arms in the order of the study."""
    runs: dict[str, Runs] = defaultdict(list)
    found = [r for r in result["results"] if r["kind"] == "hybrid"]
    order = list(dict.fromkeys(r["arm"] for r in sorted(found, key=lambda r: -r["full_fraction"])))
    for run in sorted(found, key=lambda r: (order.index(r["arm"]), r["seed"])):
        if run["full_fraction"] == fraction:
            runs[run["arm"]].append(run)
    return runs


def fractions(result: dict[str, Any]) -> list[float]:
    """Budgets that were run, the one with most hybrids first."""
    found = [r["full_fraction"] for r in result["results"] if r["kind"] == "hybrid"]
    return sorted(set(found), reverse=True)


def quality(result: dict[str, Any], fraction: float) -> list[str]:
    """Loss and recall of every arm of a budget, before and after repair."""
    tasks = [task for task in TASKS if task in result["settings"]["tasks"]]
    teacher = next((r for r in result["results"] if r["kind"] == "teacher"), None)
    header = ["arm", "seeds", "KiB", "loss", *(TASKS[t] for t in tasks), "all, unrepaired"]
    rows: list[list[str]] = []
    if teacher is not None:
        last = teacher["after"]
        cells = [f"{share(last, t):.1f}" for t in tasks]
        rows.append(["(teacher)", "", "", f"{last['text']['loss']:.4f}", *cells, ""])
    for arm, runs in by_arm(result, fraction).items():
        size = {(r["kv_bytes"] + r["state_bytes"]) / 1024 for r in runs}
        loss = spread([r["after"]["text"]["loss"] for r in runs], ".4f")
        recall = [spread([share(r["after"], t) for r in runs], ".1f") for t in tasks]
        raw = spread([mean(share(r["before"], t) for t in tasks) for r in runs], ".1f")
        sizes = ", ".join(f"{kib:g}" for kib in sorted(size))
        rows.append([arm, str(len(runs)), sizes, loss, *recall, raw])
    return [f"### full_fraction {fraction:g}", "", *table(header, rows)]


def pooled(runs: Runs, when: str) -> dict[tuple[int, int], tuple[int, int]]:
    """(right, asked) by (from, to) tokens of distance, all tasks and seeds together."""
    bins: dict[tuple[int, int], list[int]] = {}
    for run in runs:
        for found in run[when]["recall"].values():
            for part in found["by_distance"]:
                right = bins.setdefault((part["from"], part["to"]), [0, 0])
                right[0] += part["right"]
                right[1] += part["n"]
    return {edges: (right, n) for edges, (right, n) in bins.items() if n}


def distances(result: dict[str, Any], fraction: float, when: str) -> list[str]:
    """Recall by distance of every arm of a budget."""
    arms = {arm: pooled(runs, when) for arm, runs in by_arm(result, fraction).items()}
    edges = sorted({edge for found in arms.values() for edge in found})
    rows = [
        [arm, *(f"{100 * found[e][0] / found[e][1]:.1f}" if e in found else "-" for e in edges)]
        for arm, found in arms.items()
    ]
    asked = {edge: max(found.get(edge, (0, 0))[1] for found in arms.values()) for edge in edges}
    header = ["arm", *(f"{low}-{high} (n\u2264{asked[low, high]})" for low, high in edges)]
    title = {"before": "before repair", "after": "after repair"}[when]
    return [f"### full_fraction {fraction:g}, {title}", "", *table(header, rows)]


def layers(result: dict[str, Any], fraction: float) -> list[str]:
    """How many kv_heads of each layer stay full, mean over seeds."""
    arms = by_arm(result, fraction)
    count = len(next(iter(arms.values()))[0]["full"])
    rows = [
        [arm, *(f"{mean(sum(r['full'][layer]) for r in runs):.2g}" for layer in range(count))]
        for arm, runs in arms.items()
    ]
    return [f"### full_fraction {fraction:g}", "", *table(["arm", *map(str, range(count))], rows)]


def full_units(run: dict[str, Any]) -> set[tuple[int, int]]:
    """(layer, kv_head) of every full unit."""
    return {(i, j) for i, row in enumerate(run["full"]) for j, full in enumerate(row) if full}


def stability(result: dict[str, Any]) -> list[str]:
    """Share of full kv_heads that two seeds have in common; nothing where no arm has two."""
    rows: list[list[str]] = []
    for fraction in fractions(result):
        for arm, runs in by_arm(result, fraction).items():
            maps = [full_units(run) for run in runs]
            if len(maps) > 1:
                same = [100 * len(a & b) / len(a) for a, b in combinations(maps, 2)]
                rows.append([f"{fraction:g}", arm, f"{mean(same):.0f} %", f"{100 * fraction:g} %"])
    if not rows:
        return []
    header = ["full_fraction", "arm", "same units", "by chance"]
    return ["## Stability", "", "Full units two seeds have in common.", "", *table(header, rows)]


def gates(result: dict[str, Any]) -> list[str]:
    """What the constraint counted and what rounding each gate alone would have kept."""
    found = [r for r in result["results"] if r["kind"] == "gates" and r["full_fraction"] > 0]
    groups: dict[tuple[float, str], Runs] = defaultdict(list)
    for run in found:
        groups[run["full_fraction"], run["arm"]].append(run)
    keys = ("expected_full_fraction", "rounded_alone", "undecided_units")
    rows = [
        [
            f"{fraction:g}",
            arm,
            str(len(runs)),
            *(spread([float(r["summary"][key]) for r in runs], ".3f") for key in keys),
        ]
        for (fraction, arm), runs in sorted(groups.items(), key=lambda item: -item[0][0])
    ]
    return table(
        ["full_fraction", "arm", "seeds", "expected", "rounded each alone", "undecided"], rows
    )


def page(result: dict[str, Any], name: str) -> str:
    """The whole page, called `name`."""
    s = result["settings"]
    budgets = fractions(result)
    failed = len(result["failed"])
    parts = [
        [
            "# Allocation study",
            "",
            f"Made by `python benchmarks/allocation/page.py {name}` from {name}.json; what was",
            "done and what it means is in [allocation.md](../allocation.md).",
            "",
            f"{result['device']}, commit {str(result['git_commit'])[:12]}, `{result['command']}`.",
            f"Small teacher, full:window with window {s['window']} and no sinks; gates "
            f"{s['gate_steps']} steps of {s['gate_rows']} x {s['length']} tokens, repair "
            f"{s['repair_steps']} steps of {s['repair_rows']} x {s['length']} tokens (distill, "
            f"rate {s['repair_lr']:g}) for every arm. Recall in percent at {s['context']} tokens, "
            f"n = {s['samples']} per task and seed, exact greedy answers; loss in nats per token "
            f"of held-out text; KiB of cache at {s['context']} tokens. \u00b1 is the standard "
            f"deviation over seeds. {failed} jobs failed.",
        ],
        ["## Quality at equal bytes and equal repair"],
        *(quality(result, fraction) for fraction in budgets),
        [f"![Recall by distance](../images/{name}_distance.png)"],
        ["## Recall by distance", "", "All four tasks and all seeds together, in percent."],
        *(distances(result, f, when) for f in budgets for when in ("before", "after")),
        [
            "## Full kv_heads by layer",
            "",
            "Mean over seeds; layer 0 reads the embeddings.",
            "",
            f"![Full kv_heads by layer](../images/{name}_map.png)",
        ],
        *(layers(result, fraction) for fraction in budgets),
        stability(result),
        ["## Gates at the end", "", *gates(result)],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def draw(result: dict[str, Any], name: str) -> None:
    """The two pictures of the page called `name`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    budgets = [f for f in fractions(result) if len(by_arm(result, f)) > 2][:4]
    figure, axes = plt.subplots(
        1,
        len(budgets),
        figsize=(3.4 * len(budgets) + 2.4, 3.6),
        layout="constrained",
        squeeze=False,
    )
    for place, fraction in zip(axes[0], budgets, strict=True):
        arms = by_arm(result, fraction)
        shown = np.array(
            [np.mean([r["full"] for r in runs], axis=(0, 2)) for runs in arms.values()]
        )
        image = place.imshow(shown, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
        first = fraction == budgets[0]
        place.set_yticks(range(len(arms)), list(arms) if first else [])
        if not first and list(arms) != list(by_arm(result, budgets[0])):
            place.set_yticks(range(len(arms)), list(arms), fontsize=6)
        place.set(title=f"full_fraction {fraction:g}", xlabel="layer", xticks=range(shown.shape[1]))
    figure.colorbar(image, ax=axes[0, -1], label="share of full kv_heads")
    figure.savefig(DOCS / "images" / f"{name}_map.png", dpi=110)

    figure, axes = plt.subplots(
        2, len(budgets), figsize=(3.6 * len(budgets), 6), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for column, fraction in enumerate(budgets):
        for row, when in enumerate(("before", "after")):
            place = axes[row, column]
            for number, (arm, runs) in enumerate(by_arm(result, fraction).items()):
                found = sorted(pooled(runs, when).items())
                middles = [(low + high) / 2 for (low, high), _ in found]
                rates = [100 * right / n for _, (right, n) in found]
                place.plot(middles, rates, marker="o", ms=3, color=f"C{number}", label=arm)
            place.set(title=f"{fraction:g}, {when} repair", xlabel="distance, tokens")
    axes[0, 0].set_ylabel("right answers, %")
    axes[1, 0].set_ylabel("right answers, %")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
    )
    figure.savefig(DOCS / "images" / f"{name}_distance.png", dpi=110)


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "allocation"
    results = DOCS / "results"
    loaded = json.loads((results / f"{chosen}.json").read_text(encoding="utf-8"))
    (results / f"{chosen}.md").write_text(page(loaded, chosen), encoding="utf-8")
    draw(loaded, chosen)
