"""What a batch should cost: the contract of an objective, and plain next-token prediction.

Objectives return *sums* and the weight they were summed over; the loop divides once per optimiser
step, so accumulated micro-batches with different numbers of targets weigh every target alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from hydrahead.training.batch import Batch
from hydrahead.training.head_loss import Targets, chunked_cross_entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveOutput:
    """A summed loss, what it was summed over, and further sums for the metrics file.

    `sums[name] / weight` is what gets logged under `name`.
    """

    loss: Tensor
    weight: Tensor
    sums: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(ABC):
    """Turns a batch into a summed loss."""

    shown: ClassVar[tuple[str, ...]] = ()
    """Sums that progress shows beside the loss."""

    def begin_step(self, step: int) -> None:
        """Called before the first batch of optimiser step `step` (0-based)."""
        return

    @abstractmethod
    def __call__(self, batch: Batch) -> ObjectiveOutput:
        """The loss of a batch, differentiable."""

    def backward(self, batch: Batch) -> ObjectiveOutput:
        """Add the gradient of the summed loss to the parameters.

        An objective whose loss is a sum of independent parts can override this to hold one part at
        a time.
        """
        output = self(batch)
        output.loss.backward()
        sums = {name: value.detach() for name, value in output.sums.items()}
        return ObjectiveOutput(loss=output.loss.detach(), weight=output.weight.detach(), sums=sums)


def final_hidden(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Normalised hidden states [b t d] that the language-model head reads.

    No attention mask and no cache: that is what makes the model read document borders off the
    positions.
    """
    body = model.base_model
    output = body(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False)
    return output.last_hidden_state


class NextToken(Objective):
    """Cross-entropy of the next token for any causal language model of transformers."""

    def __init__(self, model: PreTrainedModel, *, chunk_tokens: int | None = None) -> None:
        self._model = model
        self._chunk_tokens = chunk_tokens

    def __call__(self, batch: Batch) -> ObjectiveOutput:
        """Summed cross-entropy over the batch's targets; reports the accuracy."""
        targets = Targets.of(batch)
        rows = targets.rows(final_hidden(self._model, batch))
        head: Any = self._model.get_output_embeddings()
        loss, right = chunked_cross_entropy(
            rows,
            head.weight,
            getattr(head, "bias", None),
            targets,
            chunk_tokens=self._chunk_tokens,
        )
        return ObjectiveOutput(loss=loss, weight=targets.weight, sums={"accuracy": right})
