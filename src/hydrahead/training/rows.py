"""Rows for training a small model from scratch: text windows and recall samples, one per row.

Row r of batch i is a pure function of (seed, i, r). Nothing has to be remembered to resume but the
number of the next batch, and any number of worker processes makes the same batches in the same
order.

A recall row is one sample of one task, at the phase's length; only what can be known is learned
(the answer and the spans the prompt repeats). So few targets would drown among those of the text
rows: a recall row's targets share the weight `recall_weight * length` instead. A text row is a
window of the token stream in which documents follow each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.utils.data import DataLoader, Dataset

from hydrahead.core.seeds import derive_seed, generator
from hydrahead.tasks import build_task, training_example
from hydrahead.tasks.codec import TextCodec, codec_from_tokenizer
from hydrahead.training.batch import IGNORE, Batch


class Phase(BaseModel):
    """One part of a length curriculum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=1)
    length: int = Field(ge=16)
    """Tokens in a row."""
    batch_size: int = Field(ge=1)
    text_share: float = Field(ge=0.0, le=1.0)
    """Share of rows that are text; the others are recall samples."""
    recall_weight: float = Field(default=0.25, gt=0.0)
    """Weight of a recall row's targets together, as a share of a text row's."""
    tasks: Mapping[str, float]
    """Task (with settings) -> weight among the recall rows."""


class CurriculumRows(Dataset[Batch]):
    """Batches of a curriculum by number; see the module's docstring."""

    def __init__(
        self, phases: Sequence[Phase], *, tokenizer: Any, text_tokens: np.ndarray, seed: int
    ) -> None:
        self._phases = tuple(phases)
        self._tokenizer = tokenizer
        self._codec: TextCodec | None = None
        self._text = text_tokens
        self._seed = seed
        self._pad = int(tokenizer.pad_token_id)
        self._tasks = {name: build_task(name) for phase in phases for name in phase.tasks}

    def __len__(self) -> int:
        """Batches in all phases together."""
        return sum(phase.steps for phase in self._phases)

    def __getitem__(self, index: int) -> Batch:
        """Batch number `index`."""
        phase = self.phase_of(index)
        rows = [self._row(phase, index, row) for row in range(phase.batch_size)]
        input_ids, labels, weights = (
            torch.from_numpy(np.stack(columns)) for columns in zip(*rows, strict=True)
        )
        positions = torch.arange(phase.length).expand(phase.batch_size, -1)
        return Batch(
            input_ids=input_ids, labels=labels, position_ids=positions, target_weights=weights
        )

    def phase_of(self, index: int) -> Phase:
        """The phase that batch `index` belongs to."""
        for phase in self._phases:
            if index < phase.steps:
                return phase
            index -= phase.steps
        raise IndexError(index)

    def _row(self, phase: Phase, index: int, row: int) -> tuple[np.ndarray, ...]:
        """Inputs, targets and target weights [t] of one row."""
        rng = generator(self._seed, "row", index, row)
        if rng.random() < phase.text_share:
            start = int(rng.random() * (len(self._text) - phase.length - 1))
            window = self._text[start : start + phase.length + 1].astype(np.int64)
            return window[:-1], window[1:], np.ones(phase.length, dtype=np.float32)
        if self._codec is None:
            self._codec = codec_from_tokenizer(self._tokenizer)
        name = rng.choices(list(phase.tasks), weights=list(phase.tasks.values()))[0]
        sample = self._tasks[name].sample(
            self._codec, length=phase.length, seed=derive_seed(self._seed, index), index=row
        )
        ids, mask = training_example(sample)
        ids, mask = ids[: phase.length + 1], mask[: phase.length + 1]
        inputs = np.full(phase.length, self._pad, dtype=np.int64)
        labels = np.full(phase.length, IGNORE, dtype=np.int64)
        inputs[: len(ids) - 1] = ids[:-1]
        targets = np.where(mask[1:], np.asarray(ids[1:], dtype=np.int64), IGNORE)
        labels[: len(targets)] = targets
        num_targets = max(1, int((labels != IGNORE).sum()))
        weight = phase.recall_weight * phase.length / num_targets
        return inputs, labels, np.full(phase.length, weight, dtype=np.float32)


class CurriculumBatches:
    """The batches of `CurriculumRows` in order, made by worker processes; resumes at any batch."""

    def __init__(self, rows: CurriculumRows, *, workers: int = 0) -> None:
        self._rows = rows
        self._workers = workers
        self._next = 0

    def state_dict(self) -> dict[str, int]:
        """Where the next `iter` starts."""
        return {"next_batch": self._next}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue at the batch `state_dict` named."""
        self._next = int(state["next_batch"])

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the next one to the end of the curriculum."""
        loader: DataLoader[Batch] = DataLoader(
            self._rows,
            batch_size=None,
            sampler=range(self._next, len(self._rows)),
            num_workers=self._workers,
            prefetch_factor=4 if self._workers else None,
        )
        for batch in loader:
            self._next += 1
            yield batch
