"""`hydrahead inspect`: what any artefact or model is, drawn in the terminal."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from hydrahead.cli_frame import Outcome
from hydrahead.core.artefacts import artefact_kind, read_record
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.records import refuse_half_done, starts_as_json

_LINE_WIDTH = 80
_MEAN_WIDTH = len("0.000 (0.000)")


def inspect_anything(path: str) -> Outcome:
    """A plan, scores, an evaluation, a hybrid, a checkpoint or a Hugging Face name.

    Raises:
        HydraHeadError: There is nothing we know at `path`.
    """
    here = Path(path)
    if not here.exists() and (path.count("/") != 1 or here.suffix == ".json"):
        raise HydraHeadError("no such file or directory", where=path, mend="check the path")
    refuse_half_done(here)
    kind = artefact_kind(here) if here.exists() else None
    show = _show_by_content if kind is None else _SHOW.get(kind, _show_settings)
    outcome = show(here if here.exists() else path)
    if kind is None:
        return outcome
    record = read_record(here)
    made = (
        f"{kind} artefact of {record.created_at}, {record.wall_seconds:.0f} s, seed {record.seed}"
    )
    data = {**outcome.data, "record": record.model_dump(mode="json")}
    return Outcome(data=data, lines=[*outcome.lines, made])


def _show_by_content(path: Path | str) -> Outcome:
    """What is no artefact of ours: a checkpoint, a bare plan, a Hugging Face name."""
    if isinstance(path, Path) and path.is_file() and starts_as_json(path):
        return _show_plan(path)
    if isinstance(path, Path) and not (path / "config.json").is_file():
        what = "is neither an artefact nor a model directory"
        raise HydraHeadError(what, where=path, mend="name a plan, scores, results or a model")
    return _show_model(path)


def _show_settings(path: Path | str) -> Outcome:
    """What an artefact without a drawing of its own was made with."""
    configuration = read_record(path).configuration
    return Outcome(data={}, lines=[f"{name}: {value}" for name, value in configuration.items()])


def _show_ranking(path: Path | str) -> Outcome:
    from hydrahead.core.jsonio import read_json

    damages = read_json(Path(path) / "damages.json")
    lines = [f"{name}: {damages[name]:.4g} nats" for name in sorted(damages, key=damages.get)]
    return Outcome(data={"damages": damages}, lines=lines)


def _show_plan(path: Path | str) -> Outcome:
    from hydrahead.plan.files import read_plan

    return plan_outcome(read_plan(path))


def _show_model(path: Path | str) -> Outcome:
    from hydrahead.plan import HeadPlan, ModelGeometry
    from hydrahead.plan.files import read_plan

    geometry = ModelGeometry.from_pretrained(path)
    is_hybrid = isinstance(path, Path) and _model_type(path) == "hydrahead"
    return plan_outcome(read_plan(path) if is_hybrid else HeadPlan.all_full(geometry))


def plan_outcome(plan: Any) -> Outcome:
    """The map of a `HeadPlan`, and what it costs from 8K to 1M tokens."""
    from hydrahead.plan.drawing import CONTEXTS, draw_cost, draw_plan

    data = {
        "full_fraction": plan.full_fraction,
        "unit": plan.unit,
        "costs": {str(context): cost_data(plan, context) for context in CONTEXTS},
        "plan": plan.to_dict(),
    }
    return Outcome(data=data, lines=[draw_plan(plan), "", draw_cost(plan)])


def cost_data(plan: Any, context: int) -> dict[str, int]:
    """Cost of one sequence of `context` tokens as plain JSON."""
    cost = plan.cost(context)
    return {"kv_bytes": cost.kv_bytes, "state_bytes": cost.state_bytes, "flops": cost.flops}


def _show_scores(path: Path | str) -> Outcome:
    from hydrahead.plan import HeadScores
    from hydrahead.plan.drawing import draw_scores

    scores = HeadScores.load(path)
    data = {**scores_data(scores), "values": scores.values.tolist()}
    return Outcome(data=data, lines=[draw_scores(scores)])


def _show_allocation(path: Path | str) -> Outcome:
    from hydrahead.core.jsonio import read_json
    from hydrahead.plan.files import read_plan

    summary = read_json(Path(path) / "allocation.json")
    drawn = plan_outcome(read_plan(Path(path) / "plan.json"))
    asked = summary["requested_full_fraction"]
    target = f"{summary['target_full_fraction']:.4g} in whole units"
    wanted = "bytes asked" if asked is None else f"full_fraction {asked:g} asked"
    lines = [
        f"{summary['kept_units']} of {summary['units']} {summary['unit']}s keep "
        f"{summary['pair']['kept']['name']}: {wanted}, {target}",
        f"the gates expected {summary['expected_full_fraction']:.4f} at the end "
        f"(gap {summary['gap']:+.4f}); each rounded alone would give "
        f"{summary['rounded_alone']:.4f}",
        f"{summary['undecided_units']} gates are undecided, {summary['ties_at_the_cut']} units "
        "were chosen by a tie-break",
    ]
    return Outcome(data={"allocation": summary, **drawn.data}, lines=[*drawn.lines, "", *lines])


def scores_data(scores: Any) -> dict[str, Any]:
    """The head of a `HeadScores` as plain JSON."""
    return {
        "method": scores.method,
        "layers": scores.geometry.num_layers,
        "q_heads": scores.geometry.num_q_heads,
        "probes": list(scores.probes),
        "zero_fraction": scores.zero_fraction,
        "split_half_reliability": scores.split_half_reliability,
        "split_half_non_zero": scores.split_half_non_zero,
    }


def _show_evaluation(path: Path | str) -> Outcome:
    return evaluation_outcome(Path(path))


def _show_diagnosis(path: Path | str) -> Outcome:
    from hydrahead.pipeline.diagnosis_table import diagnosis_outcome

    data, lines = diagnosis_outcome(Path(path))
    return Outcome(data=data, lines=lines)


def _show_adapter(path: Path | str) -> Outcome:
    from hydrahead.core.jsonio import read_json

    config = read_json(Path(path) / "adapter_config.json")
    modules = config["target_modules"]
    line = f"LoRA adapter of rank {config.get('r')} on {len(modules)} modules"
    return Outcome(data={"adapter": config}, lines=[line, *modules])


def evaluation_outcome(path: Path) -> Outcome:
    """Scores of every model, task by task, all lengths and depths together."""
    from hydrahead.evaluation.results import all_tasks, read_results

    results = read_results(path)
    scores: dict[str, dict[str, Any]] = {model.name: {} for model in results.models}
    cells: dict[str, dict[str, str]] = {}
    for task in all_tasks(results.models):
        for model in results.models:
            summary = model.summary(task)
            scores[model.name][task] = None if summary is None else summary.model_dump(mode="json")
            cells.setdefault(task, {})[model.name] = "-" if summary is None else _mean(summary)
    for model in results.models:
        if model.position_loss is not None:
            perplexity = model.position_loss.perplexity
            scores[model.name]["perplexity"] = perplexity
            cells.setdefault("perplexity", {})[model.name] = f"{perplexity:.4g}"
    lengths = ", ".join(map(str, results.settings.lengths))
    note = f"mean score and its standard error over lengths {lengths} and all depths"
    lines: list[RenderableType] = [score_table(cells, list(scores)), note]
    return Outcome(data={"results": str(path), "models": scores}, lines=lines)


def score_table(cells: Mapping[str, Mapping[str, str]], models: list[str]) -> Table:
    """A column per model where 80 characters hold them all, else a line per task and model."""
    table = Table(box=None, pad_edge=False)
    table.add_column("task", overflow="fold")
    width = max(map(len, cells)) + sum(2 + max(len(model), _MEAN_WIDTH) for model in models)
    if width <= _LINE_WIDTH:
        for model in models:
            table.add_column(model, justify="right")
        for task, row in cells.items():
            table.add_row(task, *(row[model] for model in models))
        return table
    table.add_column("model", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    for task, row in cells.items():
        for number, model in enumerate(models):
            table.add_row("" if number else task, model, row[model])
    return table


def _mean(summary: Any) -> str:
    return f"{summary.mean:.3f} ({summary.standard_error:.3f})"


def _model_type(directory: Path) -> object:
    from hydrahead.core.jsonio import read_json

    config = read_json(directory / "config.json")
    return config.get("model_type") if isinstance(config, dict) else None


_SHOW: Mapping[str, Callable[[Path | str], Outcome]] = {
    "plan": _show_plan,
    "scores": _show_scores,
    "allocation": _show_allocation,
    "model": _show_model,
    "checkpoint": _show_model,
    "evaluation": _show_evaluation,
    "diagnosis": _show_diagnosis,
    "ranking": _show_ranking,
    "adapter": _show_adapter,
}
