"""What a report is made of: artefacts, recognised by what is in them.

A path can be an evaluation, scores, a plan.json, or a model directory with a plan or a training log
in it. A model that an evaluation names and that is still there brings its training log along.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydrahead.core.artefacts import ArtefactRecord, artefact_kind, read_record
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import parse_json, read_json
from hydrahead.core.records import refuse_half_done
from hydrahead.evaluation.results import RESULTS_NAME, EvaluationResults, read_results
from hydrahead.plan.files import read_plan
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.scores import HeadScores

_METRICS_NAME = "metrics.jsonl"
_STAGE_LOGS = "training/*.jsonl"
"""What `distill` keeps of each stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedEvaluation:
    """An evaluation and the record of how it was made."""

    path: Path
    results: EvaluationResults
    record: ArtefactRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLog:
    """The lines of one `metrics.jsonl`."""

    name: str
    lines: tuple[dict[str, Any], ...]


@dataclass(slots=True, kw_only=True)
class ReportInputs:
    """Everything found at the paths a report was asked for."""

    evaluations: list[NamedEvaluation] = field(default_factory=list[NamedEvaluation])
    scores: list[tuple[str, HeadScores]] = field(default_factory=list[tuple[str, HeadScores]])
    plans: list[tuple[str, HeadPlan]] = field(default_factory=list[tuple[str, HeadPlan]])
    logs: list[TrainingLog] = field(default_factory=list[TrainingLog])


def gather(paths: Sequence[Path | str]) -> ReportInputs:
    """Read what is at `paths`.

    Raises:
        HydraHeadError: no paths, or one with nothing in it that a report could show.
    """
    if not paths:
        raise HydraHeadError("nothing to report on", mend="name evaluations, scores or plans")
    inputs = ReportInputs()
    for path in map(Path, paths):
        if not path.exists():
            raise HydraHeadError("no such file or directory", where=path, mend="check the path")
        refuse_half_done(path)
        found = [reader(path, inputs) for reader in _READERS]
        if not any(found):
            raise HydraHeadError(
                "holds nothing a report could show",
                where=path,
                mend="name an evaluation, scores, a plan.json or a trained model",
            )
    _add_logs_of_models(inputs)
    return inputs


def _read_evaluation(path: Path, inputs: ReportInputs) -> bool:
    if not (path / RESULTS_NAME).is_file() and path.name != RESULTS_NAME:
        return False
    directory = path.parent if path.is_file() else path
    record = read_record(directory) if artefact_kind(directory) else None
    results = read_results(path)
    inputs.evaluations.append(NamedEvaluation(path=directory, results=results, record=record))
    return True


def _read_scores(path: Path, inputs: ReportInputs) -> bool:
    if not (path / "scores.json").is_file():
        return False
    inputs.scores.append((path.name, HeadScores.load(path)))
    return True


def _read_plan(path: Path, inputs: ReportInputs) -> bool:
    config = path / "config.json"
    if path.is_dir() and config.is_file():
        data = read_json(config)
        if not isinstance(data, dict) or data.get("model_type") != "hydrahead":
            return False
    elif not (path.is_file() and path.suffix == ".json" and path.name != RESULTS_NAME):
        return False
    inputs.plans.append((path.stem if path.is_file() else path.name, read_plan(path)))
    return True


def _read_logs(path: Path, inputs: ReportInputs) -> bool:
    if not path.is_dir():
        return False
    found = [file for file in path.rglob(_METRICS_NAME) if "checkpoints" not in file.parts]
    files = sorted([*found, *path.glob(_STAGE_LOGS)])
    known = {log.name for log in inputs.logs}
    for file in files:
        stage = () if file.name == _METRICS_NAME else (file.stem,)
        name = "/".join((path.name, *file.relative_to(path).parent.parts, *stage))
        lines = tuple(_metrics(file))
        if name not in known and lines:
            inputs.logs.append(TrainingLog(name=name, lines=lines))
    return bool(files)


def _metrics(path: Path) -> list[dict[str, Any]]:
    whole = [line for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line.strip()]
    return [parse_json(line, where=path) for line in whole]


def _add_logs_of_models(inputs: ReportInputs) -> None:
    for evaluation in inputs.evaluations:
        for model in evaluation.results.models:
            if model.source is not None and Path(model.source).is_dir():
                _read_logs(Path(model.source), inputs)


_READERS = (_read_evaluation, _read_scores, _read_plan, _read_logs)
