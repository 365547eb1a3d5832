"""`results.json`: everything an evaluation found, as plain data.

No times and no paths of temporary places in here, so the same command gives the same file; when
and for how long is in the artefact's record beside it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from hydrahead.core.errors import HydraHeadError, unknown_name
from hydrahead.core.jsonio import read_json, validate
from hydrahead.evaluation.statistics import Summary, summarise

FORMAT_VERSION = 1
RESULTS_NAME = "results.json"
KIND = "evaluation"


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Example(_Plain):
    """One sample as text, for reading."""

    prompt_end: str
    expected: str
    generated: str


class Cell(_Plain):
    """Scores of one task at one length and depth."""

    task: str
    length: int
    """Tokens of prompt and generation together."""
    depth: float | None
    """0 (start) to 1 (end); None where the task has no depth."""
    scores: tuple[float, ...]
    """One per sample, in order: what two models are compared by."""
    summary: Summary
    example: Example | None = None


class PositionBucket(_Plain):
    """Mean next-token loss of the targets predicted at positions start <= i < stop."""

    start: int
    stop: int
    n: int
    """Sequences."""
    loss: float
    """Nats per token."""
    standard_error: float
    """Over sequences."""


class PositionLoss(_Plain):
    """Loss by position on running text."""

    source: str
    sequences: int
    length: int
    buckets: tuple[PositionBucket, ...]
    loss: float
    perplexity: float


class LengthCost(_Plain):
    """Memory of one sequence after `length` tokens, keys and values in bfloat16."""

    length: int
    kv_bytes: int
    state_bytes: int

    @property
    def total_bytes(self) -> int:
        """What models are compared at."""
        return self.kv_bytes + self.state_bytes


class ModelResults(_Plain):
    """One model: what it is, what it costs, how it did."""

    name: str
    source: str | None
    """Directory or Hugging Face name; None for a model that was handed over in memory."""
    fingerprint: str
    model_type: str
    num_parameters: int
    """Tied ones counted once."""
    dtype: str
    """Of the parameters (the first of them)."""
    max_positions: int | None
    full_fraction: float | None
    """None where the plan is unknown (a family of transformers that we do not know)."""
    plan: dict[str, Any] | None
    costs: tuple[LengthCost, ...]
    """Empty where the plan is unknown."""
    cells: tuple[Cell, ...]
    position_loss: PositionLoss | None = None

    def summary(self, task: str, length: int | None = None) -> Summary | None:
        """The scores of a task (at one length, or at all) put together; None without any."""
        scores = [
            score
            for cell in self.cells
            if cell.task == task and length in (None, cell.length)
            for score in cell.scores
        ]
        return summarise(scores) if scores else None

    def cost_at(self, length: int) -> LengthCost | None:
        """The memory at one of the lengths that were evaluated."""
        return next((cost for cost in self.costs if cost.length == length), None)


class Settings(_Plain):
    """What was asked of every model."""

    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    samples: int
    """Per task and length, spread over the depths."""
    seed: int
    dtype: str
    """What models were loaded in; one in memory keeps its own."""
    device: str
    batch_size: int
    decoding: str = "greedy"
    kv_dtype: str = "bfloat16"
    """What the costs are counted in."""
    position_loss_source: str | None = None


class EvaluationResults(_Plain):
    """The whole of `results.json`."""

    format_version: int = FORMAT_VERSION
    settings: Settings
    versions: dict[str, str]
    git_commit: str | None
    backends: dict[str, str]
    models: tuple[ModelResults, ...]

    def model(self, name: str) -> ModelResults:
        """Results of one model.

        Raises:
            HydraHeadError: no model of that name.
        """
        for model in self.models:
            if model.name == name:
                return model
        raise unknown_name("model", name, self.model_names())

    def model_names(self) -> tuple[str, ...]:
        """Names in the order they were given."""
        return tuple(model.name for model in self.models)


def read_results(path: Path | str) -> EvaluationResults:
    """The results in an evaluation artefact.

    Args:
        path: the artefact's directory, or its results.json.

    Raises:
        HydraHeadError: missing or damaged, or of another format version.
    """
    path = Path(path)
    where = path / RESULTS_NAME if path.is_dir() else path
    data = read_json(where)
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise HydraHeadError(
            f"is not a results file of format {FORMAT_VERSION}",
            where=where,
            mend="evaluate again with this version",
        )
    return validate(EvaluationResults, data, where=where)


def all_tasks(models: Iterable[ModelResults]) -> tuple[str, ...]:
    """Tasks of several models, each once, in order of first use."""
    return tuple(dict.fromkeys(cell.task for model in models for cell in model.cells))


def all_lengths(models: Iterable[ModelResults]) -> tuple[int, ...]:
    """Lengths of several models, ascending."""
    return tuple(sorted({cell.length for model in models for cell in model.cells}))
