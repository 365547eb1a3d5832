"""What gates are trained on: a task loss of the blended model, plus the gates' penalty.

The loop divides a step's summed loss by its targets, so the penalty enters every batch times the
batch's targets and ends up added to the mean exactly once, however many batches and ranks there
are.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.training.batch import Batch
from hydrahead.training.head_loss import Targets, chunked_cross_entropy
from hydrahead.training.objectives import Objective, ObjectiveOutput, final_hidden
from hydrahead.transfer.allocation.blend import Blend
from hydrahead.transfer.allocation.gates import Gates


class TaskLoss(ABC):
    """Summed loss over the positions of a batch that have a target."""

    def prepare(self, batch: Batch, targets: Targets) -> Tensor | None:
        """What is needed of a forward without the blend, [n d]; None is nothing."""
        return None

    @abstractmethod
    def __call__(self, rows: Tensor, wanted: Tensor | None, targets: Targets) -> Tensor:
        """The loss of the blend's final hidden states [n d]."""


class NextTokenLoss(TaskLoss):
    """Cross-entropy of the next token (ConSA, PruLong)."""

    def __init__(self, model: HydraForCausalLM) -> None:
        self._head: Any = model.get_output_embeddings()

    def __call__(self, rows: Tensor, wanted: Tensor | None, targets: Targets) -> Tensor:
        """Nats, summed."""
        return chunked_cross_entropy(rows, self._head.weight, None, targets)[0]


class AnswerLoss(TaskLoss):
    """Squared error of the final hidden states to the teacher's, mean over the width.

    DuoAttention takes it over the answer tokens of a synthetic recall task; which tokens those are
    is the data's to say: of `builtin:recall=1` they are the answers and what the prompt repeats.
    """

    def __init__(self, blend: Blend, shape: tuple[int, int]) -> None:
        self._blend = blend
        self._shape = shape

    @torch.no_grad()
    def prepare(self, batch: Batch, targets: Targets) -> Tensor:
        """The teacher's hidden states: those of the blend with every gate open."""
        with self._blend.gated(torch.ones(self._shape, device=batch.labels.device)):
            return targets.rows(final_hidden(self._blend.model, batch))

    def __call__(self, rows: Tensor, wanted: Tensor | None, targets: Targets) -> Tensor:
        """Summed over positions."""
        assert wanted is not None
        errors = (rows.float() - wanted.float()).square().mean(dim=-1)
        return (errors if targets.weights is None else errors * targets.weights).sum()


class AllocationObjective(Objective):
    """Task loss and penalty.

    Args:
        blend: The model.
        gates: Their values are drawn once per step.
        task: The task loss.
    """

    shown: ClassVar[tuple[str, ...]] = ("expected", "realised")

    def __init__(self, blend: Blend, gates: Gates, task: TaskLoss) -> None:
        self._blend = blend
        self._gates = gates
        self._task = task
        self._step = 0

    def begin_step(self, step: int) -> None:
        """All batches of a step share its gates."""
        self._step = step

    def __call__(self, batch: Batch) -> ObjectiveOutput:
        """The loss; its backward has to run inside `Blend.gated` if activations are recomputed."""
        targets = Targets.of(batch)
        wanted = self._task.prepare(batch, targets)
        with self._blend.gated(self._gates.values(self._step)):
            return self._output(batch, targets, wanted)

    def backward(self, batch: Batch) -> ObjectiveOutput:
        """Add the gradients of gates, multipliers and whatever else trains."""
        targets = Targets.of(batch)
        wanted = self._task.prepare(batch, targets)
        with self._blend.gated(self._gates.values(self._step)):
            output = self._output(batch, targets, wanted)
            output.loss.backward()
        return ObjectiveOutput(loss=output.loss.detach(), weight=output.weight, sums=output.sums)

    def _output(self, batch: Batch, targets: Targets, wanted: Tensor | None) -> ObjectiveOutput:
        rows = targets.rows(final_hidden(self._blend.model, batch))
        task = self._task(rows, wanted, targets)
        weight = targets.weight
        penalty = self._gates.penalty(self._step)
        target = self._gates.wanted(self._step)
        reported = {
            "task": task.detach(),
            "penalty": weight * penalty.detach(),
            "expected": weight * self._gates.expected(),
            "realised": weight * self._gates.realised(),
        }
        if target is not None:
            reported["wanted"] = weight * target
        return ObjectiveOutput(loss=task + weight * penalty, weight=weight, sums=reported)
