"""`evaluate`: recall by generation and loss by position, for several models side by side.

Every model is asked the same questions in its own tokens, in the order model, task, length, depth.
A finished cell is in the journal; the same command goes on after the last one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydrahead.core.artefacts import ArtefactWork, open_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import write_json
from hydrahead.core.progress import Progress, ProgressTask
from hydrahead.core.provenance import git_commit, library_versions
from hydrahead.evaluation import grid
from hydrahead.evaluation.generation import greedy, pad_id_for
from hydrahead.evaluation.journal import Journal
from hydrahead.evaluation.position_loss import position_loss, text_sequences
from hydrahead.evaluation.results import (
    KIND,
    RESULTS_NAME,
    Cell,
    EvaluationResults,
    Example,
    LengthCost,
    ModelResults,
    PositionLoss,
    Settings,
)
from hydrahead.evaluation.statistics import summarise
from hydrahead.evaluation.subjects import ModelSource, Subject, subjects_of
from hydrahead.kernels.backend import backends_used
from hydrahead.tasks.sample import Sample

_EXAMPLE_TOKENS = 60
_MOST_SEQUENCES = 32


def evaluate(
    models: Sequence[ModelSource],
    *,
    suite: str | Sequence[str] | None = None,
    tasks: str | Sequence[str] | None = None,
    lengths: Sequence[int],
    samples: int = 50,
    depths: Sequence[float] | None = None,
    seed: int = 0,
    batch_size: int = 8,
    device: str = "cpu",
    dtype: str = "float32",
    out: Path | str,
    force: bool = False,
    perplexity_text: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Evaluate models on generated tasks and write an artefact with `results.json`.

    Args:
        models: directories (ours or any causal model of transformers), Hugging Face names, or
            tuples (model, tokenizer, name) of models in memory, which stay where and as they are.
        suite: one or several of `tasks.SUITES` ("niah", "ruler", "mqar", "general").
        tasks: task names instead, settings included ("niah_multikey:keys=2").
        lengths: tokens of prompt and answer together.
        samples: per task and length, spread evenly over the depths.
        depths: where answers lie, 0 (start) to 1 (end), for tasks that have a depth; five by
            default.
        seed: of the samples.
        batch_size: prompts decoded at once.
        device: where models are loaded to.
        dtype: what they are loaded in.
        out: the artefact to make; the same command resumes or reuses it.
        force: replace another artefact at `out`.
        perplexity_text: text for the loss by position: `builtin`, a file, a folder or another
            source of training data; None leaves it out. Up to 32 sequences (and no more than
            `samples`) of the greatest of `lengths`.
        progress: where to show progress; stderr by default.

    Returns:
        `out`.

    Raises:
        HydraHeadError: unknown names, a length beyond a model's context or too short for a task,
            a model that cannot be read, another artefact at `out`. All of it before any work.
    """
    _check_numbers(lengths, samples, batch_size)
    chosen = grid.requested_tasks(suite, tasks)
    places = grid.chosen_depths(depths, samples) if any(t.has_depth for t in chosen) else ()
    cells = grid.plan_cells(chosen, lengths, places, samples)
    subjects = subjects_of(models)
    grid.check_lengths(subjects, cells, seed)
    source = None if perplexity_text is None else str(perplexity_text)
    settings = Settings(
        tasks=tuple(task.name for task in chosen),
        lengths=tuple(lengths),
        depths=places,
        samples=samples,
        seed=seed,
        dtype=dtype,
        device=device,
        batch_size=batch_size,
        position_loss_source=source,
    )
    if source is not None:
        for subject in subjects:
            _text(subject, settings, count=1)
    parents: dict[str, Path | str] = {subject.name: subject.fingerprint for subject in subjects}
    if perplexity_text is not None and Path(perplexity_text).exists():
        parents["text"] = Path(perplexity_text)
    # How fast and where does not decide what: a resume may take a smaller batch or another device.
    decisive = settings.model_dump(mode="json", exclude={"batch_size", "device", "seed"})
    out = Path(out)
    with open_artefact(
        out, kind=KIND, configuration=decisive, parents=parents, seed=seed, force=force
    ) as work:
        if work.reused:
            return out
        results = _run(subjects, cells, settings, work, progress or Progress())
        write_json(work.directory / RESULTS_NAME, results.model_dump(mode="json"))
    return out


def _check_numbers(lengths: Sequence[int], samples: int, batch_size: int) -> None:
    if not lengths or min(lengths) < 1 or len(set(lengths)) < len(lengths):
        raise HydraHeadError(
            f"lengths {list(lengths)} are not distinct positive numbers of tokens",
            mend="for instance --lengths 1024,2048",
        )
    for name, value in (("samples", samples), ("batch_size", batch_size)):
        if value < 1:
            raise HydraHeadError(f"{name} is {value}", mend="give at least 1")


def _text(subject: Subject, settings: Settings, *, count: int) -> list[list[int]]:
    """Running text for the loss by position, as long as the longest prompts."""
    return text_sequences(
        subject.tokenizer,
        settings.position_loss_source or "",
        length=max(settings.lengths) - 1,
        count=count,
    )


def _run(
    subjects: Sequence[Subject],
    cells: Sequence[grid.CellPlan],
    settings: Settings,
    work: ArtefactWork,
    progress: Progress,
) -> EvaluationResults:
    journal = Journal(work.scratch / "cells.jsonl")
    with progress:
        models = tuple(_one(subject, cells, settings, journal, progress) for subject in subjects)
    for subject in subjects:
        for op, backend in (journal.get(subject.name, "backends") or {}).items():
            work.note_backend(op, backend)
    return EvaluationResults(
        settings=settings,
        versions=library_versions(),
        git_commit=git_commit(),
        backends=dict(work.backends),
        models=models,
    )


def _one(
    subject: Subject,
    cells: Sequence[grid.CellPlan],
    settings: Settings,
    journal: Journal,
    progress: Progress,
) -> ModelResults:
    """All of one model; its weights are read only if something is left to do."""
    runner = _ModelRunner(subject, settings, journal)
    total = sum(cell.count for cell in cells)
    with runner.at_work():
        shown = progress.task(f"evaluate {subject.name}", total, done=runner.samples_done(cells))
        found = tuple(runner.cell(cell, shown) for cell in cells)
        loss = None
        if settings.position_loss_source is not None:
            loss = runner.position_loss(settings.position_loss_source, progress)
        weights = runner.weights()
    plan = subject.plan
    costs = {n: plan.cost(n, kv_dtype=settings.kv_dtype) for n in settings.lengths if plan}
    return ModelResults(
        name=subject.name,
        source=subject.source,
        fingerprint=subject.fingerprint,
        model_type=str(subject.config.get("model_type", "unknown")),
        num_parameters=weights["num_parameters"],
        dtype=weights["dtype"],
        max_positions=subject.max_positions,
        full_fraction=None if plan is None else plan.full_fraction,
        plan=None if plan is None else plan.to_dict(),
        costs=tuple(
            LengthCost(length=length, kv_bytes=cost.kv_bytes, state_bytes=cost.state_bytes)
            for length, cost in costs.items()
        ),
        cells=found,
        position_loss=loss,
    )


class _ModelRunner:
    """One model at work."""

    def __init__(self, subject: Subject, settings: Settings, journal: Journal) -> None:
        self._subject = subject
        self._settings = settings
        self._journal = journal
        self._model: Any = None
        self._was_training = False

    @property
    def model(self) -> Any:
        """The model, read when it is first needed, in evaluation mode."""
        if self._model is None:
            self._model = self._subject.load(
                dtype=self._settings.dtype, device=self._settings.device
            )
            self._was_training = self._model.training
            self._model.eval()
        return self._model

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Whatever happens, leave a model that was handed over as it was."""
        try:
            yield
        finally:
            if self._model is not None:
                self._model.train(self._was_training)

    def samples_done(self, cells: Sequence[grid.CellPlan]) -> int:
        """Samples of finished cells."""
        name = self._subject.name
        return sum(c.count for c in cells if self._journal.get(name, *c.key) is not None)

    def weights(self) -> dict[str, Any]:
        """How many numbers the model has (tied ones once), and their dtype."""
        key = (self._subject.name, "weights")
        if self._journal.get(*key) is None:
            count = sum(parameter.numel() for parameter in self.model.parameters())
            dtype = str(self.model.dtype).removeprefix("torch.")
            self._journal.add({"num_parameters": count, "dtype": dtype}, *key)
            self._journal.add(backends_used(), self._subject.name, "backends")
        return self._journal.get(*key) or {}

    def cell(self, cell: grid.CellPlan, shown: ProgressTask) -> Cell:
        """The scores of one cell, from the journal or from the model."""
        key = (self._subject.name, *cell.key)
        done = self._journal.get(*key)
        if done is not None:
            return Cell.model_validate(done)
        result = self._generate(cell, shown)
        self._journal.add(result.model_dump(mode="json"), *key)
        return result

    def _generate(self, cell: grid.CellPlan, shown: ProgressTask) -> Cell:
        codec, task, size = self._subject.codec, cell.task, self._settings.batch_size
        samples = cell.samples(self._subject, self._settings.seed)
        texts: list[str] = []
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            new = greedy(
                self.model,
                [sample.prompt_ids for sample in batch],
                max_new_tokens=task.max_new_tokens(codec),
                pad_id=pad_id_for(self._subject.tokenizer),
            )
            texts += [codec.decode(ids) for ids in new]
            shown.advance(len(batch), task=task.name, length=cell.length)
        scores = [task.score(text, s) for text, s in zip(texts, samples, strict=True)]
        return Cell(
            task=task.name,
            length=cell.length,
            depth=cell.depth,
            scores=tuple(scores),
            summary=summarise(scores),
            example=self._example(samples[0], texts[0]),
        )

    def _example(self, sample: Sample, generated: str) -> Example:
        codec = self._subject.codec
        return Example(
            prompt_end=codec.decode(sample.prompt_ids[-_EXAMPLE_TOKENS:]),
            expected=codec.decode(sample.answer_ids),
            generated=generated,
        )

    def position_loss(self, source: str, progress: Progress) -> PositionLoss:
        """The loss by position, from the journal or from the model."""
        key = (self._subject.name, "position_loss")
        done = self._journal.get(*key)
        if done is not None:
            return PositionLoss.model_validate(done)
        settings = self._settings
        sequences = _text(self._subject, settings, count=min(settings.samples, _MOST_SEQUENCES))
        shown = progress.task(f"loss by position {self._subject.name}", len(sequences))
        result = position_loss(
            self.model,
            sequences,
            source=source,
            batch_size=settings.batch_size,
            advance=shown.advance,
        )
        self._journal.add(result.model_dump(mode="json"), *key)
        return result
