"""Recall by distance and loss of a model, each in one forward per batch.

A greedy generation gives the right answer exactly if, with the right answer forced, every token of
it is the likeliest one. So one forward over prompt and answer says what generation would, without a
cache and a step per token.

Distance: tokens from the (last) evidence to the end of the prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.tasks import Sample, TextCodec, build_task
from hydrahead.training.batch import Batch
from hydrahead.training.objectives import NextToken


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A sample, and how far back its answer lies."""

    task: str
    sample: Sample
    distance: int
    """Tokens from the nearest evidence to the end of the prompt."""


def questions(
    codec: TextCodec, tasks: Sequence[str], *, length: int, num: int, seed: int
) -> list[Question]:
    """`num` samples of each task, their depths spread evenly where a task has one."""
    found: list[Question] = []
    for name in tasks:
        task = build_task(name)
        for index in range(num):
            depth = (index + 0.5) / num if task.has_depth else None
            sample = task.sample(codec, length=length, seed=seed, index=index, depth=depth)
            stop = max((stop for _, stop in sample.evidence), default=len(sample.prompt_ids))
            distance = len(sample.prompt_ids) - stop
            found.append(Question(task=name, sample=sample, distance=distance))
    return found


@torch.no_grad()
def answers(model: HydraForCausalLM, asked: Sequence[Question], *, batch_size: int) -> list[bool]:
    """Whether greedy generation would give exactly the right answer."""
    right: list[bool] = []
    for start in range(0, len(asked), batch_size):
        samples = [question.sample for question in asked[start : start + batch_size]]
        rows = [[*sample.prompt_ids, *sample.answer_ids] for sample in samples]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows]).to(model.device)
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        for row, sample in enumerate(samples):
            first, count = len(sample.prompt_ids), len(sample.answer_ids)
            guessed = model.lm_head(hidden[row, first - 1 : first - 1 + count]).argmax(-1)
            right.append(guessed.tolist() == list(sample.answer_ids))
    return right


@torch.no_grad()
def mean_loss(model: HydraForCausalLM, batches: Iterator[Batch]) -> dict[str, float]:
    """Nats per target over some batches, and how many targets there were."""
    objective = NextToken(model)
    loss = weight = 0.0
    for batch in batches:
        output = objective(batch.to(model.device))
        loss, weight = loss + float(output.loss), weight + float(output.weight)
    return {"loss": loss / max(weight, 1.0), "targets": weight}


def recall_table(asked: Sequence[Question], right: Sequence[bool], edges: Sequence[int]) -> Any:
    """Per task: share of right answers in all, and by distance between neighbouring `edges`."""
    table: dict[str, Any] = {}
    for name in dict.fromkeys(question.task for question in asked):
        of_task = [(q.distance, r) for q, r in zip(asked, right, strict=True) if q.task == name]
        by_distance = []
        for low, high in pairwise(edges):
            hits = [r for distance, r in of_task if low <= distance < high]
            by_distance.append({"from": low, "to": high, "right": sum(hits), "n": len(hits)})
        hits = [r for _, r in of_task]
        table[name] = {"right": sum(hits), "n": len(hits), "by_distance": by_distance}
    return table
