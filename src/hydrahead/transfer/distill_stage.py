"""Stage distill: the hybrid learns the teacher's next-token distribution (HydraHead Eq. 16)."""

from typing import ClassVar

import torch

from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.training.batch import Batch
from hydrahead.training.config import TrainConfig
from hydrahead.training.head_loss import Targets
from hydrahead.training.layers import decoder_layers
from hydrahead.training.objectives import Objective, ObjectiveOutput, final_hidden
from hydrahead.transfer.losses import DistillWeights, Head, chunked_distillation
from hydrahead.transfer.stage_base import DistillConfig, PreparedStage, Stage, train_everything


class DistillStage(Stage):
    """HALO's second stage: 1B tokens in rows of 512, rate 1e-4 (for 2B parameters) to 1e-5."""

    defaults: ClassVar[TrainConfig] = TrainConfig(
        steps=20_000,
        batch_size=32,
        accumulation=3,
        length=512,
        lr=1e-4,
        min_lr=1e-5,
        warmup_steps=50,
    )

    def prepare(
        self, hybrid: HydraForCausalLM, teacher: HydraForCausalLM | None, config: DistillConfig
    ) -> PreparedStage:
        """Everything trains."""
        assert teacher is not None
        train_everything(hybrid)
        weights = DistillWeights(
            kl=config.kl_weight, ce=config.ce_weight, temperature=config.temperature
        )
        objective = DistillObjective(hybrid, teacher, weights)
        return PreparedStage(objective=objective, blocks=decoder_layers(hybrid))


class DistillObjective(Objective):
    """KL to the teacher plus cross-entropy on labels, over the positions that have a target."""

    def __init__(
        self, hybrid: HydraForCausalLM, teacher: HydraForCausalLM, weights: DistillWeights
    ) -> None:
        self._hybrid = hybrid
        self._teacher = teacher
        self._weights = weights

    def __call__(self, batch: Batch) -> ObjectiveOutput:
        """Summed loss; reports both terms and the hybrid's accuracy."""
        targets = Targets.of(batch)
        with torch.no_grad():
            taught = targets.rows(final_hidden(self._teacher, batch))
        learned = targets.rows(final_hidden(self._hybrid, batch))
        sums = chunked_distillation(
            learned,
            _head_of(self._hybrid),
            taught,
            _head_of(self._teacher),
            targets,
            self._weights,
        )
        reported = {"kl": sums.kl, "ce": sums.ce, "accuracy": sums.right}
        return ObjectiveOutput(loss=sums.loss, weight=targets.weight, sums=reported)


def _head_of(model: HydraForCausalLM) -> Head:
    return Head(weight=model.lm_head.weight, bias=model.lm_head.bias)
