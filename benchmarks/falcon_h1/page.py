"""docs/results/falcon_h1.md from the JSON files beside it: no figure is typed.

python benchmarks/falcon_h1/page.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "docs" / "results"
LOSSES = ("text loss", "1st quarter", "2nd", "3rd", "4th")
QUARTERS = "Loss on text kept apart, in all and by quarters of the row:"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table with an empty line before it."""
    lines = [header, ["---"] * len(header), *rows]
    return ["", *("| " + " | ".join(line) + " |" for line in lines)]


def section(title: str, result: Any) -> list[str]:
    """A study's tables; one that starts from the teacher has none of arms from scratch."""
    extent = result["settings"]["extent"]
    length = extent["lengths"][-1]
    parts = [
        f"## {title}",
        "",
        f"{result['hardware']}, commit {result['git_commit'][:12]}, `{result['command']}`; "
        f"kernels: {result['route']}, n = {extent['samples']} per task and seed, rows of "
        f"{length} tokens. " + result.get("note", ""),
    ]
    if result["settings"]["base"] == "teacher":
        parts += ["", _taught(result, length)]
    else:
        for tested in (at for at in extent["eval_lengths"] if at >= length):
            parts += ["", f"From scratch, recall at {tested} tokens:", *_arms(result, tested)]
        parts += ["", QUARTERS, *_arms(result, None)]
    parts += ["", "Recall as heads are given away:", *_swept(result, length)]
    parts += ["", QUARTERS, *_swept(result, None)]
    return parts + _speed(result.get("speed")) + _routes(result.get("routes"))


def _taught(result: Any, length: int) -> str:
    taught = result["runs"][0]["tested"]
    unchanged = ", ".join(f"{t} {100 * taught['recall'][t]:.0f}" for t in _tasks(taught, length))
    return (
        f"Every arm starts from the bundled teacher and is repaired for {result['steps']} steps of "
        f"{result['settings']['extent']['tokens_per_step']} tokens at each plan. The teacher as it "
        f"is: {unchanged}; loss {taught['text_loss']:.2f}."
    )


def _tasks(tested: Any, length: int) -> list[str]:
    return [task for task in tested["recall"] if task.endswith(f"@{length}")]


def _columns(tests: list[Any], length: int | None) -> list[str]:
    """What is said of a test: recall at a length, or the losses."""
    return list(LOSSES) if length is None else _tasks(tests[0], length)


def _cells(tests: list[Any], length: int | None) -> list[str]:
    """Over seeds: the mean and the range of recall in percent, or the means of the losses."""
    if length is None:
        rows = [[test["text_loss"], *_quarters(test["loss_by_position"])] for test in tests]
        return [f"{sum(column) / len(column):.2f}" for column in zip(*rows, strict=True)]
    columns = [[100 * test["recall"][task] for test in tests] for task in _tasks(tests[0], length)]
    return [f"{sum(x) / len(x):.0f} ({min(x):.0f} - {max(x):.0f})" for x in columns]


def _quarters(by_position: list[float]) -> list[float]:
    size = len(by_position) // 4
    return [sum(by_position[i * size : (i + 1) * size]) / size for i in range(4)]


def _by_arm(result: Any) -> Iterator[tuple[str, list[Any]]]:
    for arm in dict.fromkeys(run["arm"] for run in result["runs"]):
        runs = [run for run in result["runs"] if run["arm"] == arm and "tested" in run]
        if runs:
            yield arm, runs


def _arms(result: Any, length: int | None) -> list[str]:
    """Arms trained from scratch."""
    rows, columns = [], []
    for arm, runs in _by_arm(result):
        tokens = sum(run["tokens"] for run in runs) / len(runs) / 1e6
        size = f"{(runs[0]['kv_bytes'] + runs[0]['state_bytes']) / 1024:.0f}"
        label = [arm, str(len(runs)), f"{runs[0]['parameters']:,}", f"{tokens:.1f}M", size]
        tests = [run["tested"] for run in runs]
        columns = _columns(tests, length)
        rows.append([*label, *_cells(tests, length)])
    return table(["arm", "seeds", "parameters", "tokens", "cache, KiB", *columns], rows)


def _swept(result: Any, length: int | None) -> list[str]:
    """Rows by arm and plan; a run whose scores failed shows nothing and is left out."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for run in result["runs"]:
        for row in run["sweep"] if "scores_error" not in run else ():
            key = (run["arm"], -row["full_fraction"], row["chosen_by"] == "random")
            groups.setdefault(key, []).append(row)
    rows, columns = [], []
    for (arm, fraction, by_chance), found in sorted(groups.items()):
        size = f"{(found[0]['kv_bytes'] + found[0]['state_bytes']) / 1024:.0f}"
        for name in (name for name in ("before", "after") if f"{name}_repair" in found[0]):
            label = [arm, f"{abs(fraction):g}", "random" if by_chance else "score", name]
            tests = [row[f"{name}_repair"] for row in found]
            columns = _columns(tests, length)
            rows.append([*label, str(len(found)), size, *_cells(tests, length)])
    header = ["arm", "full_fraction", "chosen by", "repair", "seeds", "cache, KiB"]
    return table([*header, *columns], rows)


def _speed(speed: Any) -> list[str]:
    if speed is None:
        return []
    rows = []
    for arm, found in speed["arms"].items():
        for context in map(str, speed["contexts"]):
            cells = [f"{found['prefill_seconds'][context]:.3f}"]
            cells += [f"{found['decode_ms'][context]:.1f}", f"{found['cache_bytes'][context]:,}"]
            rows.append([arm, context, *cells])
    head = f"Speed by context: {speed['hardware']}, `{speed['command']}`, commit "
    head += f"{speed['git_commit'][:12]}, n = 1 prefill, median of 10 decoded tokens."
    header = ["model", "context", "prefill, s", "decode, ms per token", "cache bytes"]
    return ["", head, *table(header, rows)]


def _routes(routes: Any) -> list[str]:
    if routes is None:
        return []
    rows = [
        [name, f"{found['milliseconds']:.2f}", f"{found['error']:.1e}", f"{found['peak_bytes']:,}"]
        for name, found in routes["measured"].items()
    ]
    head = f"Training routes of the scan, forward and backward: {routes['device']}, "
    head += f"{routes['stack']}, `{routes['command']}`, commit {routes['git_commit'][:12]}, "
    head += f"{routes['n']}; {routes['note']}."
    return ["", head, *table(["shape/route", "ms", "error", "peak bytes"], rows)]


def page() -> str:
    """The whole page."""
    parts = [
        "# The Falcon-H1 study",
        "",
        "Made by `python benchmarks/falcon_h1/page.py` from falcon_h1.json and",
        "falcon_h1_teacher.json. Recall in percent, mean over seeds (lowest - highest seed);",
        "loss in nats per token. What it says: [falcon_h1.md](../falcon_h1.md).",
    ]
    for title, name in (
        ("From scratch, at equal parameters", "falcon_h1"),
        ("From the bundled teacher", "falcon_h1_teacher"),
    ):
        result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        parts += ["", *section(title, result)]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    (RESULTS / "falcon_h1.md").write_text(page(), encoding="utf-8")
