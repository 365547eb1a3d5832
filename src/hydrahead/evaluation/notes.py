"""The small print of a report: what, when, with which versions, and the commands."""

import shlex
from collections.abc import Sequence

from hydrahead.core.provenance import git_commit, library_versions
from hydrahead.evaluation.inputs import NamedEvaluation, ReportInputs
from hydrahead.evaluation.results import Settings

Note = tuple[str, str]
"""(name, text)"""


def facts_of(inputs: ReportInputs) -> tuple[Note, ...]:
    """What stands under the heading: date, seed, decoding, versions."""
    if not inputs.evaluations:
        return _versions(library_versions(), git_commit())
    first = inputs.evaluations[0]
    settings = first.results.settings
    dates = [e.record.created_at for e in inputs.evaluations if e.record is not None]
    seeds = _distinct([str(e.results.settings.seed) for e in inputs.evaluations])
    facts: list[Note] = []
    if dates:
        facts.append(("evaluated", max(dates).replace("T", " ").replace("+00:00", " UTC")))
    facts += [("seed", seeds), ("device", settings.device)]
    if first.results.backends:
        backends = ", ".join(f"{op}: {name}" for op, name in first.results.backends.items())
        facts.append(("kernels", backends))
    return (*facts, *_versions(first.results.versions, first.results.git_commit))


def footnotes_of(inputs: ReportInputs) -> tuple[Note, ...]:
    """How numbers are to be read, and the commands that make them again."""
    notes: list[Note] = []
    if inputs.evaluations:
        notes += [
            (
                "Scores",
                "Mean and standard error sqrt(variance / n) in percent, which for answers that "
                "are right or wrong is the binomial sqrt(p (1 - p) / n). Intervals are Wilson's "
                "at 95 %. A score is the share of the expected values that the generation "
                "holds. Bold: the best of a column (the difference may be within the error).",
            ),
            (
                "Memory",
                "Of one sequence of that many tokens: cached keys and values "
                f"({inputs.evaluations[0].results.settings.kv_dtype}) plus recurrent states "
                "(fp32), by the cost model of the plan. Weights are not included.",
            ),
            (
                "Tasks",
                "Own wording, generated from the seed in each model's own tokens; prompt and "
                "answer together fit the length.",
            ),
        ]
    notes += [_how(evaluation) for evaluation in inputs.evaluations]
    for name, scores in inputs.scores:
        settings = ", ".join(f"{key}={value}" for key, value in scores.settings.items())
        notes.append((f"Scores {name}", f"method {scores.method}; {settings}"))
    return tuple(notes)


def evaluate_command(models: Sequence[str], settings: Settings, out: str) -> str:
    """The command line that makes an evaluation again."""
    parts = ["hydrahead", "evaluate", *models, "--tasks", ",".join(settings.tasks)]
    parts += ["--lengths", ",".join(map(str, settings.lengths)), "--samples", str(settings.samples)]
    if settings.depths:
        parts += ["--depths", ",".join(f"{depth:g}" for depth in settings.depths)]
    parts += ["--seed", str(settings.seed), "--dtype", settings.dtype]
    if settings.position_loss_source is not None:
        parts += ["--perplexity-text", settings.position_loss_source]
    return shlex.join([*parts, "--out", out])


def _how(evaluation: NamedEvaluation) -> Note:
    results = evaluation.results
    models = [model.source or model.name for model in results.models]
    text = evaluate_command(models, results.settings, str(evaluation.path))
    if evaluation.record is not None:
        minutes, seconds = divmod(round(evaluation.record.wall_seconds), 60)
        text += f"   # {minutes} min {seconds} s, payload {evaluation.record.payload_sha256[:12]}"
    return (f"Evaluation {evaluation.path.name}", text)


def _versions(versions: dict[str, str], commit: str | None) -> tuple[Note, ...]:
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (("versions", listed), *([("commit", commit[:12])] if commit else []))


def _distinct(values: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(values))
