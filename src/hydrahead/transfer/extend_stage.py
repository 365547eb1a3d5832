"""Stage extend: next-token training on long rows at a small constant rate, without a teacher."""

from typing import ClassVar

from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.training.config import TrainConfig
from hydrahead.training.layers import decoder_layers
from hydrahead.training.objectives import NextToken
from hydrahead.transfer.stage_base import DistillConfig, PreparedStage, Stage, train_everything


class ExtendStage(Stage):
    """HALO's third stage: 1B tokens in rows of 16K, constant rate 1e-5."""

    defaults: ClassVar[TrainConfig] = TrainConfig(
        steps=500,
        batch_size=1,
        accumulation=128,
        length=16_384,
        lr=1e-5,
        schedule="constant",
        warmup_steps=50,
        checkpoint_every=25,
        activation_checkpointing=True,
    )
    needs_teacher: ClassVar[bool] = False

    def prepare(
        self, hybrid: HydraForCausalLM, teacher: HydraForCausalLM | None, config: DistillConfig
    ) -> PreparedStage:
        """Everything trains."""
        train_everything(hybrid)
        return PreparedStage(objective=NextToken(hybrid), blocks=decoder_layers(hybrid))
