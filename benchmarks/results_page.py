"""docs/results/README.md from the JSON files beside it, so that no figure is typed by hand.

python benchmarks/results_page.py
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def load(name: str) -> Any:
    """One result file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


KERNEL_RUNS = ("gated_delta_chunked", "gated_delta_recurrent", "lightning_ssd")
"""Ends of the names of `verify.py`'s files."""


def kernels() -> list[str]:
    """Worst errors of the fast kernels, by operation and tensor, run by run."""
    parts = [
        "## Fast kernels against the references",
        "",
        "Relative error against fp64 on the same inputs; worst over the cases of a run.",
    ]
    for run in KERNEL_RUNS:
        result = load(f"verify_{run}")
        environment = result["environment"]
        ops = sorted({check["case"].split()[0] for check in result["checks"]})
        parts += [
            "",
            f"{environment['device']}, {environment['kernels']}, commit "
            f"{environment['git_commit'][:12]}, `{result['command']}`: {result['note']}.",
            "",
            *table(
                ["operation", "tensor", "cases", "worst", "tolerance", "failed"],
                [row for op in ops for row in _errors(op, result["checks"])],
            ),
        ]
    return parts


def _errors(op: str, checks: list[dict[str, Any]]) -> list[list[str]]:
    """A row per tensor of one operation: the case that came nearest to its tolerance."""
    rows = []
    checks = [check for check in checks if check["case"].split()[0] == op]
    for tensor in dict.fromkeys(check["tensor"] for check in checks):
        found = [check for check in checks if check["tensor"] == tensor]
        worst = max(found, key=lambda check: check["error"] / check["tolerance"])
        rows.append(
            [
                op,
                tensor,
                str(len(found)),
                f"{worst['error']:.1e}",
                f"{worst['tolerance']:.0e}",
                str(sum(not check["passed"] for check in found)),
            ]
        )
    return rows


def long_context() -> list[str]:
    """The 1.7B-shaped model at 128K tokens."""
    result = load("long_context")
    arms = result["arms"]
    rows = [
        [label, *(form(arms[arm][key]) for arm in ("teacher", "hybrid"))]
        for label, key, form in (
            ("full_fraction", "full_fraction", str),
            ("prefill, s", "prefill_seconds", "{:.2f}".format),
            ("decode, ms per token (median)", "decode_ms_median", "{:.0f}".format),
            ("cache, GB", "cache_bytes", lambda n: f"{n / 1e9:.2f}"),
            ("cache as planned, GB", "planned_cache_bytes", lambda n: f"{n / 1e9:.2f}"),
            ("peak over weights, GB", "peak_bytes_over_weights", lambda n: f"{n / 1e9:.2f}"),
        )
    ]
    return [
        "## A Qwen3-1.7B-shaped model at 128K tokens",
        "",
        f"Random weights, {result['dtype']}, {result['device']}, commit "
        f"{result['git_commit'][:12]}, prefill in pieces of "
        f"{arms['hybrid']['prefill_chunk']} tokens, n = 1 prefill and "
        f"{result['n']['decode']} decoded tokens.",
        "",
        *table(["", "teacher", "hybrid"], rows),
        "",
        "The hybrid reads an eighth of the cache and still decodes slower: at one token a model "
        "of this size waits for launches, and a layer of both kinds of heads makes several times "
        "as many as a layer of attention. Before cuDNN's planning for every number of keys was "
        "avoided the same measurement gave 95 ms for the teacher and 174 ms for the hybrid (H200, "
        "commit d72e1b3ce955). Since then a layer makes about a third of the tensor calls "
        "([lab notebook](../lab-notebook.md)), which was not measured on a GPU yet. Prefill, where "
        "the work is, gains.",
    ]


def small_teacher() -> list[str]:
    """Recall of the bundled teacher."""
    result = load("small_teacher")
    lengths = sorted({int(key.split("@")[1]) for key in result["recall"]})
    tasks = dict.fromkeys(key.split("@")[0] for key in result["recall"])
    rows = [
        [task, *(f"{100 * result['recall'][f'{task}@{length}']:.0f} %" for length in lengths)]
        for task in tasks
    ]
    return [
        "## The small teacher",
        "",
        f"{result['device']}, commit {result['git_commit'][:12]}, n = {result['n']} each, "
        "scored by greedy generation.",
        "",
        *table(["task", *(f"{length} tokens" for length in lengths)], rows),
    ]


def qk_restore() -> list[str]:
    """Recall and task accuracy before and after fine-tuning, and after every restoration."""
    result = load("qk_restore")
    settings = result["settings"]
    columns = list(result["groups"]["chain"]["rows"]["before"])
    parts = [
        "## QK-Restore on a small hybrid",
        "",
        f"{result['hardware']}, commit {str(result['commit'])[:12]}, `{result['command']}`; "
        f"learning rate {result['rate']:g}, {settings['snapshots'][-1]} steps of "
        f"{settings['batch_size'] * settings['row_tokens']} tokens, chains of "
        f"{settings['steps_per_problem']} steps with values up to {settings['highest']}; recall in "
        f"prompts of {settings['recall_length']} tokens, n = {settings['samples']} per task, "
        f"distance and seed; n = {settings['problems']} problems per task and seed. In percent, "
        "mean over seeds (standard error over seeds). near: "
        f"{_distances(result, far=False)} tokens back, far: {_distances(result, far=True)}. "
        "chain: solved whole; chain steps: right, given the right ones before; sums: of one step.",
    ]
    for name, group in result["groups"].items():
        parts += ["", f"Fine-tuned on: {name} ({group['num_seeds']} seeds)", ""]
        parts += _qk_group(columns, group)
    parts += ["", "Differences between rows, seed by seed:", ""]
    parts += table(["", *columns], _cells(columns, result["compared"]))
    for rate, group in result["other_rates"].items():
        parts += ["", f"Fine-tuned on: chain, learning rate {rate} (one seed, no error told)", ""]
        parts += _qk_group(columns, group)
    return parts


def _qk_group(columns: list[str], group: Any) -> list[str]:
    """Every row at the end, behind what was measured on the way there, and what else was seen."""
    rows = {"before": group["rows"]["before"]}
    for entry in group["course"][:-1]:
        rows[f"step {entry['step']}, after"] = entry["after"]
        rows[f"step {entry['step']}, qk"] = entry["qk"]
    shown = table(["", *columns], _cells(columns, rows | group["rows"]))
    return [*shown, "", _qk_notes(group)]


def _cells(columns: list[str], rows: Any) -> list[list[str]]:
    return [
        [name, *(_percent(values[column]) for column in columns)] for name, values in rows.items()
    ]


def _qk_notes(group: Any) -> str:
    """Widths, distances, drift and loss of one kind of fine-tuning."""

    def told(values: Any, form: str) -> str:
        return ", ".join(f"{name} {form.format(*value)}" for name, value in values.items())

    moved = {name: [100 * value[0]] for name, value in group["drift"].items()}
    return (
        f"Width of the attention gradient on chains, tokens: "
        f"{told(group['gradient_width'], '{:.0f} ({:.1f})')}. Mean attention distance there: "
        f"{told(group['attention_distance'], '{:.1f} ({:.1f})')}. Relative change of weights: "
        f"{told(moved, '{:.1f} %')}. Training loss at the end: "
        f"{'{:.4f} ({:.4f})'.format(*group['final_loss'])}."
    )


def _distances(result: Any, *, far: bool) -> str:
    given = result["settings"]["distances"]
    return ", ".join(str(d) for d in given if (d in result["far"]) == far)


def _percent(value: list[float]) -> str:
    return f"{100 * value[0]:.1f} ({100 * value[1]:.1f})"


def keyphrases() -> list[str]:
    """Arms of the keyphrase study, frozen and fully trained encoder, and the tools."""
    frozen, full = load("keyphrases"), load("keyphrases_full")
    tools = [
        [
            f"{name}, n = {tool['n']}",
            "-",
            *(f"{100 * tool['test'][score]:.1f}" for score in KEYPHRASE_SCORES[:4]),
            "-",
            "-",
        ]
        for name, tool in frozen["tools"].items()
    ]
    header = ["arm", "seeds", *KEYPHRASE_SCORES, "f1@o, context swapped"]
    parts = ["## Keyphrases of long documents"]
    parts += ["", "F1 in percent, means over seeds (range for F1@O). `shuffled` arms train and are"]
    parts += ["tested with the words of other documents; the last column swaps them at test only."]
    for result, more in ((frozen, tools), (full, [])):
        parts += [
            "",
            f"Encoder {result['mode']}: {result['encoder']}; {result['hardware']}, commit "
            f"{result['git_commit'][:12]}, {result['epochs']} epochs, n = {result['n']} test "
            f"documents. {result.get('note', '')}",
            "",
            *table(header, _keyphrase_rows(result["runs"]) + more),
        ]
    speed = frozen["seconds_per_10k_words"]
    given = [f"{arm} {value:.1f}" for arm, value in speed.items() if isinstance(value, float)]
    parts += ["", f"Seconds per 10K words ({speed['note']}): {', '.join(given)}."]
    parts += ["", "Encoder frozen, words lent from half the file away:", ""]
    return parts + table(header, _keyphrase_rows(frozen["far_runs"]))


def keyphrase_cost() -> list[str]:
    """What an expanded tagger adds to a forward pass, and the memory of a very long document."""
    result = load("keyphrases_cost")
    parts = [
        "## What attention expansion costs",
        "",
        f"{result['hardware']}, commit {result['git_commit'][:12]}, `{result['command']}`; least "
        f"of {result['n']} repeats over batches of real documents. In percent of the plain "
        "tagger's forward pass; the second figure also counts the words around the windows.",
    ]
    for name, found in result["overhead"].items():
        rows = [
            [
                arm,
                str(cost["width"]),
                f"{100 * cost['added_share']:.2f}",
                f"{100 * cost['forward']:.1f}",
                f"{100 * cost['with context']:.1f}",
            ]
            for arm, cost in found["arms"].items()
        ]
        title = f"{name}, {found['windows_per_batch']} windows of {found['window_tokens']} tokens, "
        title += f"{found['distinct_words_median']:.0f} distinct words (median):"
        header = ["arm", "width", "parameters, %", "forward, %", "with context, %"]
        parts += ["", title, "", *table(header, rows)]
    rows = [
        [
            f"{row['words']:,}",
            *(f"{row[key]:.0f}" for key in ("peak_mib_of_a_short_text", "peak_mib")),
            f"{row['cpu_seconds_per_10k_words']:.1f}",
        ]
        for row in result["memory"]
    ]
    header = ["words", "peak after a short text, MiB", "peak, MiB", "CPU seconds per 10K words"]
    return [*parts, "", "Tagging one document in a fresh process:", "", *table(header, rows)]


KEYPHRASE_SCORES = ("f1@5", "f1@10", "f1@m", "f1@o", "tag_f1")


def _keyphrase_rows(all_runs: list[Any]) -> list[list[str]]:
    rows = []
    for arm in dict.fromkeys(run["arm"] for run in all_runs):
        runs = [run for run in all_runs if run["arm"] == arm]
        cells = []
        for name in KEYPHRASE_SCORES:
            found = [100 * run["test"][name] for run in runs]
            spread = f" ({min(found):.1f} - {max(found):.1f})" if name == "f1@o" else ""
            cells.append(f"{sum(found) / len(found):.1f}{spread}")
        swapped = [100 * run["swapped"]["f1@o"] for run in runs if "swapped" in run]
        last = f"{sum(swapped) / len(swapped):.1f}" if swapped else "-"
        rows.append([arm, str(len(runs)), *cells, last])
    return rows


def page() -> str:
    """The whole page."""
    head = [
        "# Results",
        "",
        "Made by `python benchmarks/results_page.py` from the JSON files in this folder, which",
        "hold command, commit, hardware and n. Pages of their own: [allocation](allocation.md) and",
        "[allocation, small](allocation_small.md), [Falcon-H1](falcon_h1.md).",
    ]
    parts = [head, kernels(), long_context(), small_teacher(), qk_restore()]
    parts += [keyphrases(), keyphrase_cost()]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


if __name__ == "__main__":
    (RESULTS / "README.md").write_text(page(), encoding="utf-8")
