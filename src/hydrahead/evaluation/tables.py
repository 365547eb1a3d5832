"""The tables of a report: memory by length, scores by task, and samples to read."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydrahead.evaluation.results import Example, ModelResults, all_lengths, all_tasks
from hydrahead.evaluation.statistics import Summary
from hydrahead.plan.budget import format_bytes, format_tokens

_MOST_ACROSS = 6
"""Tasks that fit beside each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCell:
    """What one sequence costs at one length."""

    total: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """One model."""

    name: str
    model_type: str
    parameters: str
    dtype: str
    full_fraction: str
    cells: tuple[MemoryCell | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTable:
    """Models and what they cost."""

    lengths: tuple[str, ...]
    rows: tuple[MemoryRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCell:
    """A mean in percent with what is known of its uncertainty."""

    percent: str
    error: str
    bar: float
    """Percent of the cell's width."""
    best: bool
    tooltip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """Of a row or a column: a task, or a model with its memory."""

    name: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """One model over all tasks, or one task over all models."""

    heading: Heading
    cells: tuple[ScoreCell | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """All models and tasks at one length."""

    length: str
    rows_are: str
    columns: tuple[Heading, ...]
    rows: tuple[ScoreRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleAnswer:
    """What one model said."""

    model: str
    generated: str
    score: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleGroup:
    """The first sample of a task, and every model's answer to it."""

    task: str
    length: str
    prompt_end: str
    expected: str
    answers: tuple[ExampleAnswer, ...]


def memory_table(models: Sequence[ModelResults]) -> MemoryTable:
    """Every model's cost at every length that any of them was evaluated at."""
    lengths = sorted({cost.length for model in models for cost in model.costs})
    return MemoryTable(
        lengths=tuple(map(format_tokens, lengths)),
        rows=tuple(_memory_row(model, models[0], lengths) for model in models),
    )


def _memory_row(model: ModelResults, first: ModelResults, lengths: Sequence[int]) -> MemoryRow:
    cells: list[MemoryCell | None] = []
    for length in lengths:
        cost, base = model.cost_at(length), first.cost_at(length)
        if cost is None:
            cells.append(None)
            continue
        parts = [f"kv {format_bytes(cost.kv_bytes)}", f"state {format_bytes(cost.state_bytes)}"]
        if model is not first and base is not None and base.total_bytes:
            parts.append(f"{cost.total_bytes / base.total_bytes:.0%} of {first.name}")
        cells.append(MemoryCell(total=format_bytes(cost.total_bytes), parts=tuple(parts)))
    fraction = model.full_fraction
    return MemoryRow(
        name=model.name,
        model_type=model.model_type,
        parameters=_millions(model.num_parameters),
        dtype=model.dtype,
        full_fraction="unknown" if fraction is None else f"{fraction:.4g}",
        cells=tuple(cells),
    )


def score_tables(models: Sequence[ModelResults]) -> tuple[ScoreTable, ...]:
    """A table per length, the shortest first; many tasks go down the page instead of across."""
    tasks = all_tasks(models)
    return tuple(_score_table(models, tasks, length) for length in all_lengths(models))


def _score_table(models: Sequence[ModelResults], tasks: Sequence[str], length: int) -> ScoreTable:
    by_model = tuple(Heading(name=model.name, note=_memory(model, length)) for model in models)
    by_task = tuple(Heading(name=task) for task in tasks)
    columns: list[list[ScoreCell | None]] = []  # a task over all models
    for task in tasks:
        found = [model.summary(task, length) for model in models]
        top = max((summary.mean for summary in found if summary is not None), default=0.0)
        compared = len(models) > 1
        columns.append([s and _score_cell(s, best=compared and s.mean == top) for s in found])
    down = len(tasks) > max(_MOST_ACROSS, len(models))
    headings, cells = (by_task, columns) if down else (by_model, zip(*columns, strict=True))
    return ScoreTable(
        length=format_tokens(length),
        rows_are="task" if down else "model",
        columns=by_model if down else by_task,
        rows=tuple(
            ScoreRow(heading=heading, cells=tuple(row))
            for heading, row in zip(headings, cells, strict=True)
        ),
    )


def _memory(model: ModelResults, length: int) -> str:
    cost = model.cost_at(length)
    return "" if cost is None else format_bytes(cost.total_bytes)


def _score_cell(summary: Summary, *, best: bool) -> ScoreCell:
    return ScoreCell(
        percent=f"{100 * summary.mean:.1f}",
        error=f"{100 * summary.standard_error:.1f}",
        bar=round(100 * summary.mean, 1),
        best=best,
        tooltip=f"n = {summary.n}, 95 %: {100 * summary.low:.1f} to {100 * summary.high:.1f}",
    )


def examples(models: Sequence[ModelResults]) -> tuple[ExampleGroup, ...]:
    """The first sample of every task at the shortest length, where models were asked the same."""
    groups: list[ExampleGroup] = []
    for task in all_tasks(models):
        answers: list[ExampleAnswer] = []
        shown: tuple[Example, int] | None = None
        for model in models:
            cells = [cell for cell in model.cells if cell.task == task and cell.example]
            if not cells:
                continue
            cell = min(cells, key=lambda cell: cell.length)
            example = cell.example
            assert example is not None
            if shown is None:
                shown = (example, cell.length)
            if (example.prompt_end, example.expected) == (shown[0].prompt_end, shown[0].expected):
                score = f"{100 * cell.scores[0]:.0f} %"
                answers.append(
                    ExampleAnswer(model=model.name, generated=example.generated, score=score)
                )
        if shown is not None:
            groups.append(
                ExampleGroup(
                    task=task,
                    length=format_tokens(shown[1]),
                    prompt_end=shown[0].prompt_end.partition(" ")[2],
                    expected=shown[0].expected,
                    answers=tuple(answers),
                )
            )
    return tuple(groups)


def _millions(count: int) -> str:
    for factor, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= factor:
            return f"{count / factor:.3g} {letter}"
    return str(count)
