"""What a report says: headings, tables, figures and notes, ready for the template.

Everything shown is derived from the artefacts. Figures come as markup; all other text is escaped by
the template.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from hydrahead.evaluation import charts, maps
from hydrahead.evaluation.inputs import NamedEvaluation, ReportInputs, TrainingLog
from hydrahead.evaluation.notes import facts_of, footnotes_of
from hydrahead.evaluation.results import Cell, ModelResults, all_lengths, all_tasks
from hydrahead.evaluation.tables import (
    ExampleGroup,
    MemoryTable,
    ScoreTable,
    examples,
    memory_table,
    score_tables,
)
from hydrahead.plan.budget import format_tokens
from hydrahead.plan.head_plan import HeadPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture, what it is called, and what to know of it."""

    svg: Markup
    title: str
    caption: str = ""
    legend: tuple[maps.LegendEntry, ...] = ()
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Figures under one heading."""

    anchor: str
    heading: str
    text: str
    figures: tuple[Figure, ...]
    legend: tuple[maps.LegendEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The whole report."""

    title: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    memory: MemoryTable | None
    scores: tuple[ScoreTable, ...]
    sections: tuple[Section, ...]
    examples: tuple[ExampleGroup, ...]
    footnotes: tuple[tuple[str, str], ...]


def build_page(inputs: ReportInputs, *, title: str | None = None) -> Page:
    """The page that shows `inputs`."""
    models = _models(inputs.evaluations)
    sections = (
        *_by_length(models),
        *_needles(models),
        *_plans(models, inputs.plans),
        *_head_scores(inputs),
        *_position_losses(models),
        *_training(inputs.logs),
    )
    return Page(
        title=title or _title(models, inputs),
        lead=_lead(models, inputs),
        facts=facts_of(inputs),
        memory=memory_table(models) if models else None,
        scores=score_tables(models),
        sections=sections,
        examples=examples(models),
        footnotes=footnotes_of(inputs),
    )


def _models(evaluations: Sequence[NamedEvaluation]) -> list[ModelResults]:
    """All models; what several evaluations found out about one of them is put together.

    Models that share a name and nothing else get their evaluation's name beside their own.
    """
    merged: dict[tuple[str, str], tuple[str, ModelResults]] = {}
    for evaluation in evaluations:
        for model in evaluation.results.models:
            key = (model.name, model.fingerprint)
            before = merged.get(key)
            home = evaluation.path.name if before is None else before[0]
            merged[key] = (home, model if before is None else _together(before[1], model))
    names = [name for name, _ in merged]
    return [
        model.model_copy(update={"name": f"{model.name} ({home})"})
        if names.count(model.name) > 1
        else model
        for home, model in merged.values()
    ]


def _together(one: ModelResults, other: ModelResults) -> ModelResults:
    """Results of one model from two evaluations; where both have a cell, the first one's."""
    places = {(cell.task, cell.length, cell.depth) for cell in one.cells}
    cells = [c for c in other.cells if (c.task, c.length, c.depth) not in places]
    lengths = {cost.length for cost in one.costs}
    costs = [cost for cost in other.costs if cost.length not in lengths]
    return one.model_copy(
        update={
            "cells": (*one.cells, *cells),
            "costs": (*one.costs, *costs),
            "position_loss": one.position_loss or other.position_loss,
        }
    )


def _title(models: Sequence[ModelResults], inputs: ReportInputs) -> str:
    if models:
        return "What the models recall, and what they cost"
    return "Head scores" if inputs.scores else "Plans and training"


def _lead(models: Sequence[ModelResults], inputs: ReportInputs) -> str:
    """One sentence that says what was done."""
    if not models:
        parts = [
            _count(len(inputs.scores), "set of head scores", "sets of head scores"),
            _count(len(inputs.plans), "plan", "plans"),
            _count(len(inputs.logs), "training log", "training logs"),
        ]
        return ", ".join(part for part in parts if part) + "."
    lengths = ", ".join(format_tokens(length) for length in all_lengths(models))
    samples = sorted({e.results.settings.samples for e in inputs.evaluations})
    return (
        f"{_count(len(models), 'model', 'models')} on "
        f"{_count(len(all_tasks(models)), 'generated task', 'generated tasks')} at {lengths} "
        f"tokens, {' or '.join(map(str, samples))} samples per task and length, answers by greedy "
        "decoding."
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}" if number else ""


def _colour(number: int) -> str:
    return charts.MODEL_COLOURS[number % len(charts.MODEL_COLOURS)]


def _model_legend(models: Sequence[ModelResults]) -> tuple[maps.LegendEntry, ...]:
    return tuple(
        maps.LegendEntry(colour=_colour(number), text=model.name)
        for number, model in enumerate(models)
    )


def _by_length(models: Sequence[ModelResults]) -> Iterator[Section]:
    """Scores with their intervals: dots at one length, curves over several."""
    lengths, tasks = all_lengths(models), all_tasks(models)
    if not tasks:
        return
    figures: list[Figure] = []
    if len(lengths) == 1:
        groups = [
            (_colour(number), [model.summary(task, lengths[0]) for task in tasks])
            for number, model in enumerate(models)
        ]
        svg = charts.dots(tasks, groups, label="scores by task and model with 95 % intervals")
        title = f"At {format_tokens(lengths[0])} tokens"
        figures.append(Figure(svg=Markup(svg), title=title, wide=True))
    else:
        figures += [_length_figure(models, task, lengths) for task in tasks]
    yield Section(
        anchor="scores",
        heading="Scores with their uncertainty",
        text="Dots and lines are means, bars and bands Wilson's intervals at 95 %.",
        figures=tuple(figures),
        legend=_model_legend(models),
    )


def _length_figure(models: Sequence[ModelResults], task: str, lengths: Sequence[int]) -> Figure:
    lines: list[charts.Curve] = []
    for number, model in enumerate(models):
        found = [(length, s) for length in lengths if (s := model.summary(task, length))]
        lines.append(
            charts.Curve(
                name=model.name,
                x=[length for length, _ in found],
                y=[s.mean for _, s in found],
                low=[s.low for _, s in found],
                high=[s.high for _, s in found],
                colour=_colour(number),
            )
        )
    svg = charts.curves(
        lines,
        x_label="tokens",
        y_label="score",
        label=f"{task} by length",
        as_percent=True,
        token_ticks=lengths,
    )
    return Figure(svg=Markup(svg), title=task)


def _needles(models: Sequence[ModelResults]) -> Iterator[Section]:
    """By depth and length, a map per model; at a single length one map for all models."""
    single = len(all_lengths(models)) == 1
    figures: list[Figure] = []
    for task in all_tasks(models):
        named = [(model.name, _deep_cells(model, task)) for model in models]
        named = [(name, cells) for name, cells in named if cells]
        if named and single:
            cells = [cell for _, found in named for cell in found]
            svg = Markup(maps.needle_strips(named))
            figures.append(Figure(svg=svg, title=task, caption=_per_cell(cells)))
        elif named:
            figures += [
                Figure(
                    svg=Markup(maps.needle_map(cells)),
                    title=f"{name}: {task}",
                    caption=_per_cell(cells),
                )
                for name, cells in named
            ]
    if figures:
        yield Section(
            anchor="needles",
            heading="Where the needle is found",
            text="Percent answered right by depth of the needle (0 % is the start of the prompt)"
            + (". " if single else " and length of the prompt. ")
            + "Point at a cell for its interval.",
            figures=tuple(figures),
        )


def _deep_cells(model: ModelResults, task: str) -> list[Cell]:
    return [cell for cell in model.cells if cell.task == task and cell.depth is not None]


def _per_cell(cells: Sequence[Cell]) -> str:
    counts = sorted({cell.summary.n for cell in cells})
    return f"{' or '.join(map(str, counts))} samples per cell"


def _plans(
    models: Sequence[ModelResults], plans: Sequence[tuple[str, HeadPlan]]
) -> Iterator[Section]:
    named = [(m.name, HeadPlan.from_dict(m.plan)) for m in models if m.plan is not None]
    named += [entry for entry in plans if entry[0] not in {name for name, _ in named}]
    figures: list[Figure] = []
    for name, plan in named:
        svg, legend = maps.plan_map(plan)
        figures.append(
            Figure(
                svg=Markup(svg),
                title=name,
                caption=f"full_fraction {plan.full_fraction:.4g}",
                legend=tuple(legend),
            )
        )
    if figures:
        yield Section(
            anchor="plans",
            heading="Which mixer runs where",
            text="Layers from left to right, each unit's mixer as a colour.",
            figures=tuple(figures),
        )


def _head_scores(inputs: ReportInputs) -> Iterator[Section]:
    figures: list[Figure] = []
    for name, scores in inputs.scores:
        facts = [f"exactly zero: {scores.zero_fraction:.1%}"]
        if scores.split_half_reliability is not None:
            facts.append(f"split-half reliability {scores.split_half_reliability:.2f}")
        facts.append(f"highest {float(scores.values.max()):.3g}")
        svg = Markup(maps.score_map(scores))
        title = f"{name}: {scores.method}"
        figures.append(Figure(svg=svg, title=title, caption=", ".join(facts)))
    if figures:
        yield Section(
            anchor="head-scores",
            heading="What the heads scored",
            text="Layers from left to right, q_heads from top to bottom, groups of one kv_head "
            "together; darker is higher. Point at a cell for its number.",
            figures=tuple(figures),
        )


def _position_losses(models: Sequence[ModelResults]) -> Iterator[Section]:
    lines: list[charts.Curve] = []
    notes: list[str] = []
    for number, model in enumerate(models):
        loss = model.position_loss
        if loss is None:
            continue
        middle = [(bucket.start + bucket.stop) / 2 for bucket in loss.buckets]
        lines.append(
            charts.Curve(
                name=model.name,
                x=middle,
                y=[b.loss for b in loss.buckets],
                low=[b.loss - b.standard_error for b in loss.buckets],
                high=[b.loss + b.standard_error for b in loss.buckets],
                colour=_colour(number),
            )
        )
        notes.append(f"{model.name} {loss.perplexity:.4g}")
    if lines:
        svg = charts.curves(
            lines, x_label="position", y_label="nats per token", label="loss by position"
        )
        caption = (
            f"Perplexity over all positions: {', '.join(notes)}. {_texts(models)} "
            "Bands: one standard error over sequences."
        )
        yield Section(
            anchor="position-loss",
            heading="Loss by position on running text",
            text="Loss of the next token by how much text came before it.",
            figures=(Figure(svg=Markup(svg), title="Loss by position", caption=caption),),
            legend=tuple(maps.LegendEntry(colour=line.colour, text=line.name) for line in lines),
        )


def _texts(models: Sequence[ModelResults]) -> str:
    """What was read, each kind of text once."""
    losses = [model.position_loss for model in models if model.position_loss is not None]
    said = [
        f"{loss.sequences} sequences of {loss.length} tokens of {loss.source}." for loss in losses
    ]
    return " ".join(dict.fromkeys(said))


def _training(logs: Sequence[TrainingLog]) -> Iterator[Section]:
    figures: list[Figure] = []
    for log in logs:
        points = [
            (float(line["step"]), float(line["loss"])) for line in log.lines if "loss" in line
        ]
        if points:
            line = charts.Curve(name=log.name, x=[x for x, _ in points], y=[y for _, y in points])
            svg = charts.curves(
                [line],
                x_label="step",
                y_label="loss",
                label=f"training loss of {log.name}",
                log_y=True,
            )
            caption = f"{points[0][1]:.4g} at the start, {points[-1][1]:.4g} at the end"
            figures.append(Figure(svg=Markup(svg), title=log.name, caption=caption))
    if figures:
        yield Section(
            anchor="training",
            heading="Training",
            text="Loss by step, on a logarithmic scale.",
            figures=tuple(figures),
        )
