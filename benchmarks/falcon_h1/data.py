"""Batches and test samples of the Falcon-H1 study, made once for all runs, as numpy files.

The curriculum is that of the small teacher in short: copying at 64 and 128 tokens, where there are
few places to look at, telling keys apart in many questions a row at 256, then 512. Text is the
standard library's docstrings; its last tenth is kept for the loss by position.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hydrahead.model.loading import load_tokenizer
from hydrahead.recipes.demo import SMALL_TEACHER
from hydrahead.tasks import build_task, codec_from_tokenizer
from hydrahead.training.batch import IGNORE
from hydrahead.training.data.builtin import builtin_texts
from hydrahead.training.rows import CurriculumRows, Phase

TOKENS_PER_STEP = 16384
TASKS = ("niah_single", "niah_multikey:keys=4", "mqar", "mqar:pairs=32,queries=8")
COPYING = {"copy_spans:shortest=4,longest=8": 2.0, "mqar:pairs=8,queries=8": 1.0}
COPYING_FARTHER = {"copy_spans": 2.0, "mqar:pairs=12,queries=12": 1.0, "niah_rounds:keys=2": 2.0}
TELLING_APART = {
    "niah_rounds:keys=4": 3.0,
    "niah_single": 0.5,
    "mqar:pairs=8,queries=8": 1.0,
    "mqar:pairs=24,queries=24": 1.0,
    "copy_spans": 1.0,
}
FINDING = {
    "niah_rounds:keys=8": 3.0,
    "niah_single": 1.0,
    "niah_multikey:keys=4": 1.0,
    "mqar:pairs=8,queries=8": 1.0,
    "mqar:pairs=32,queries=32": 1.5,
    "copy_spans": 0.5,
}
TASKS_AT = {64: COPYING, 128: COPYING_FARTHER, 256: TELLING_APART, 512: FINDING}
"""What a row of so many tokens teaches."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much data is made."""

    shares: tuple[float, ...] = (0.25, 0.25, 0.3, 0.2)
    """Of the steps, by phase."""
    lengths: tuple[int, ...] = (64, 128, 256, 512)
    steps: int = 3000
    """Most steps of a run."""
    tokens_per_step: int = TOKENS_PER_STEP
    eval_lengths: tuple[int, ...] = (256, 512, 1024)
    text_share: float = 0.2
    """Of the rows."""
    samples: int = 128
    text_rows: int = 64

    def phases(self, steps: int) -> list[Phase]:
        """The curriculum of a run of so many steps."""
        return [
            Phase(
                steps=max(1, round(steps * share)),
                length=length,
                batch_size=max(1, self.tokens_per_step // length),
                text_share=self.text_share,
                recall_weight=1.0,
                tasks=TASKS_AT[length],
            )
            for share, length in zip(self.shares, self.lengths, strict=True)
        ]


def text_tokens(tokenizer: Any) -> np.ndarray:
    """The corpus as one array."""
    encoded = tokenizer(list(builtin_texts()), add_special_tokens=False)["input_ids"]
    end = [tokenizer.eos_token_id]
    return np.asarray(list(chain.from_iterable(ids + end for ids in encoded)), dtype=np.uint16)


def _rows(extent: Extent, directory: Path, first: int, last: int) -> list[tuple[np.ndarray, ...]]:
    text = np.load(directory / "text.npy")
    phases = extent.phases(extent.steps)
    rows = CurriculumRows(
        phases,
        tokenizer=load_tokenizer(SMALL_TEACHER),
        text_tokens=text[: len(text) * 9 // 10],
        seed=0,
    )
    made = []
    for index in range(first, last):
        batch = rows[index]
        assert batch.target_weights is not None
        labels = batch.labels.numpy()
        made.append(
            (
                batch.input_ids.numpy().astype(np.int16),
                labels.astype(np.int16),
                batch.target_weights[:, 0].numpy(),
            )
        )
    return made


def _samples(extent: Extent, task: str, length: int) -> dict[str, np.ndarray]:
    tokenizer = load_tokenizer(SMALL_TEACHER)
    codec, built = codec_from_tokenizer(tokenizer), build_task(task)
    ids = np.zeros((extent.samples, length + 1), dtype=np.int16)
    labels = np.full((extent.samples, length), IGNORE, dtype=np.int16)
    for index in range(extent.samples):
        sample = built.sample(codec, length=length, seed=77, index=index)
        start, answer = len(sample.prompt_ids), len(sample.answer_ids)
        row = [*sample.prompt_ids, *sample.answer_ids]
        ids[index, : len(row)] = row
        labels[index, start - 1 : start + answer - 1] = sample.answer_ids
    return {"ids": ids[:, :-1], "labels": labels}


def make(extent: Extent, directory: Path, workers: int) -> None:
    """Write `phase{i}_{name}.npy`, `eval.npz`, `text_rows.npy`, and `done` when all is there."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(SMALL_TEACHER)
    text = text_tokens(tokenizer)
    np.save(directory / "text.npy", text)
    length = extent.lengths[-1]
    held = text[len(text) * 9 // 10 :]
    count = min(extent.text_rows, len(held) // (length + 1))
    rows = held[: count * (length + 1)].reshape(count, length + 1).astype(np.int16)
    np.save(directory / "text_rows.npy", rows)
    phases = extent.phases(extent.steps)
    borders = np.cumsum([0] + [phase.steps for phase in phases])
    size = max(1, extent.steps // (8 * workers))
    with ProcessPoolExecutor(workers) as pool:
        samples = {
            f"{task}@{n}": pool.submit(_samples, extent, task, n)
            for task in TASKS
            for n in extent.eval_lengths
        }
        parts = [
            [
                pool.submit(_rows, extent, directory, first, min(first + size, stop))
                for first in range(start, stop, size)
            ]
            for start, stop in pairwise(borders)
        ]
        for number, futures in enumerate(parts):
            made = list(chain.from_iterable(future.result() for future in futures))
            columns = [np.stack(column) for column in zip(*made, strict=True)]
            for name, column in zip(("ids", "labels", "weights"), columns, strict=True):
                np.save(directory / f"phase{number}_{name}.npy", column)
        arrays: dict[str, Any] = {
            f"{key}/{name}": array
            for key, future in samples.items()
            for name, array in future.result().items()
        }
        np.savez(directory / "eval.npz", **arrays)
    (directory / "done").touch()
