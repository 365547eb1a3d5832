"""The study's results in short: means over seeds with standard errors, for docs/results.

    python benchmarks/qk_restore/summarise.py RESULTS.json docs/results/qk_restore.json

A standard error is over seeds (sample standard deviation / sqrt(seeds)); with one seed it is
written as 0, and `num_seeds` says why. `compared` holds differences, taken seed by seed before they
are averaged: the arms of a seed share questions, so these have smaller errors.
"""

import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Measured = dict[str, Any]
FAR = 512


def main(source: Path, target: Path) -> None:
    """Read, reduce, write."""
    results = json.loads(source.read_text())
    arms = list(results["arms"].values())
    rate = results["notes"]["pilot"]["chosen rate"]
    kept = [arm for arm in arms if arm["arm"]["lr"] == rate and complete(arm)]
    groups: dict[str, list[Any]] = {}
    for arm in kept:
        name = arm["arm"]["kind"] + (" frozen" if arm["arm"]["frozen"] else "")
        groups.setdefault(name, []).append(arm)
    short = {key: results[key] for key in ("command", "commit", "hardware", "seconds", "linear")}
    # Where things lay on the machine tells nobody anything.
    short["command"] = re.sub(r"(?<= )/\S+", "DIR", short["command"])
    short |= {key: results[key] for key in ("settings", "base_training", "notes")}
    short["rate"] = rate
    short["far"] = far_of(results["settings"]["distances"])
    short["cut"] = [arm["arm"]["name"] for arm in arms if not complete(arm)]
    short["failed"] = results["failed"]
    short["groups"] = {name: group_summary(found) for name, found in groups.items()}
    short["compared"] = compared(groups)
    # The pilot's other rates: one seed, so no error can be told.
    short["other_rates"] = {
        f"{arm['arm']['lr']:g}": group_summary([arm])
        for arm in sorted(arms, key=lambda arm: arm["arm"]["lr"])
        if arm["arm"]["lr"] != rate and complete(arm)
    }
    target.write_text(json.dumps(short, indent=1) + "\n")


COMPARED = {
    "restored (qk) - after": (("chain", "qk"), ("chain", "after")),
    "frozen - not frozen": (("chain frozen", "after"), ("chain", "after")),
    "frozen - not frozen, first snapshot": (("chain frozen", "first"), ("chain", "first")),
    "frozen - restored (qk)": (("chain frozen", "after"), ("chain", "qk")),
    "frozen - restored (k)": (("chain frozen", "after"), ("chain", "k")),
    "pro 1 - qk": (("chain", "pro 1"), ("chain", "qk")),
    "qk - q": (("chain", "qk"), ("chain", "q")),
    "qk - k": (("chain", "qk"), ("chain", "k")),
    "q - k": (("chain", "q"), ("chain", "k")),
    "k - v": (("chain", "k"), ("chain", "v")),
    "v - after": (("chain", "v"), ("chain", "after")),
    "linear qk - after": (("chain", "linear qk"), ("chain", "after")),
    "all qk - qk": (("chain", "all qk"), ("chain", "qk")),
    "chain - sums, after": (("chain", "after"), ("sums", "after")),
    "chain - text, after": (("chain", "after"), ("text", "after")),
}
"""Name -> (fine-tuned on, row) of both sides; all at the end but `first`, the first snapshot."""


def compared(groups: dict[str, list[Any]]) -> dict[str, Any]:
    """Every difference of `COMPARED` over the seeds that both sides have."""
    found: dict[str, Any] = {}
    for name, (left, right) in COMPARED.items():
        sides = [
            {arm["arm"]["seed"]: numbers(row_of(arm, row)) for arm in groups.get(kind, [])}
            for kind, row in (left, right)
        ]
        seeds = sorted(sides[0].keys() & sides[1].keys())
        if seeds:
            found[name] = over_seeds(
                [
                    {key: sides[0][seed][key] - sides[1][seed][key] for key in sides[0][seed]}
                    for seed in seeds
                ]
            )
    return found


def row_of(arm: Any, row: str) -> Measured:
    """One row's measurements."""
    if row == "first":
        return arm["snapshots"][0]["after"]
    last = arm["snapshots"][-1]
    return last["after"] if row == "after" else last["restored"][row]


def complete(arm: Any) -> bool:
    """Whether an arm reached its last snapshot."""
    done = [entry["step"] for entry in arm["snapshots"]]
    return bool(done) and done[-1] == arm["arm"]["snapshots"][-1]


def far_of(distances: Sequence[int]) -> list[int]:
    """The distances that count as far: all from `FAR` on, or else the longest."""
    return [d for d in distances if d >= FAR] or list(distances[-1:])


def numbers(measured: Measured) -> dict[str, float]:
    """Near and far recall of both tasks, and the tasks that can be trained for."""
    found = {}
    for task, by_distance in measured["recall"].items():
        distances = sorted(map(int, by_distance))
        far = far_of(distances)
        near = [d for d in distances if d not in far]
        short = "single" if task == "niah_single" else "4 keys"
        found[f"{short}, near"] = sum(by_distance[str(d)] for d in near) / len(near)
        found[f"{short}, far"] = sum(by_distance[str(d)] for d in far) / len(far)
    return {**found, **measured["task"]}


def group_summary(arms: Sequence[Any]) -> dict[str, Any]:
    """One kind of fine-tuning over its seeds."""
    last = [arm["snapshots"][-1] for arm in arms]
    rows: dict[str, Any] = {
        "before": over_seeds([numbers(arm["before"]) for arm in arms]),
        "after": over_seeds([numbers(entry["after"]) for entry in last]),
    }
    for name in last[0]["restored"]:
        rows[name] = over_seeds([numbers(entry["restored"][name]) for entry in last])
    profiles = {
        "before": [arm["before"]["profile"] for arm in arms],
        "after": [entry["profile"] for entry in last],
        "qk": [entry["profile qk"] for entry in last],
    }
    return {
        "seeds": [arm["arm"]["seed"] for arm in arms],
        "num_seeds": len(arms),
        "rows": rows,
        "course": [
            {
                "step": same[0]["step"],
                "after": over_seeds([numbers(entry["after"]) for entry in same]),
                "qk": over_seeds([numbers(entry["restored"]["qk"]) for entry in same]),
            }
            for same in zip(*(arm["snapshots"] for arm in arms), strict=True)
        ],
        "final_loss": mean_and_error([final_loss(arm) for arm in arms]),
        "drift": over_seeds([entry["drift"] for entry in last]),
        "gradient_width": {
            name: over_seeds([{"W": p["gradient_width"]} for p in found])["W"]
            for name, found in profiles.items()
        },
        "attention_distance": {
            name: over_seeds([{"d": p["mean_distance"]} for p in found])["d"]
            for name, found in profiles.items()
        },
        "gradient_by_distance": {
            "bins": profiles["before"][0]["bins"],
            **{
                name: [
                    sum(values) / len(values)
                    for values in zip(*(p["gradient"] for p in found), strict=True)
                ]
                for name, found in profiles.items()
            },
        },
    }


def final_loss(arm: Any) -> float:
    """Mean of the last fifth of the training losses that were noted."""
    noted = [loss for _, loss in arm["losses"]]
    last = noted[-max(1, len(noted) // 5) :]
    return sum(last) / len(last)


def over_seeds(values: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Key -> [mean, standard error]."""
    return {key: mean_and_error([value[key] for value in values]) for key in values[0]}


def mean_and_error(values: Sequence[float]) -> list[float]:
    """Mean and standard error; 0 for one value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return [round(mean, 5), 0.0]
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return [round(mean, 5), round(math.sqrt(variance / len(values)), 5)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
