"""What a stage of the repair is: which parameters train, on which loss, for how long by default."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.training.config import TrainConfig
from hydrahead.training.objectives import Objective


class DistillConfig(BaseModel):
    """Settings of `distill`; everything is saved with the result.

    `train` changes a stage's default training settings: {"align": {"tokens": 10_000_000, "lr":
    3e-3}}.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the hybrid; masters are float32 either way."""
    teacher_dtype: Literal["float32", "bfloat16"] | None = None
    """Compute dtype of the teacher, which only runs forward; None: the hybrid's."""
    attn_implementation: str = "sdpa"
    seed: int = 0
    align_target: Literal["output", "heads"] = "output"
    """Stage align compares after W_o, or head by head before it (twins)."""
    kl_weight: float = Field(default=1.0, ge=0)
    ce_weight: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    train: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedStage:
    """A stage ready to run on one hybrid."""

    objective: Objective
    blocks: Sequence[nn.Module]
    """What is compiled, or recomputed in backward, one at a time."""


class Stage(ABC):
    """One stage of the repair; entries of `stages.STAGES`."""

    defaults: ClassVar[TrainConfig]
    needs_teacher: ClassVar[bool] = True
    layer_by_layer: ClassVar[bool] = False
    """Activations of one layer at a time live until backward."""

    @abstractmethod
    def prepare(
        self, hybrid: HydraForCausalLM, teacher: HydraForCausalLM | None, config: DistillConfig
    ) -> PreparedStage:
        """Set `requires_grad` of the hybrid's parameters and build the objective.

        Raises:
            HydraHeadError: This hybrid and teacher cannot go through the stage.
        """


def train_everything(hybrid: HydraForCausalLM) -> None:
    """Let every parameter learn."""
    for parameter in hybrid.parameters():
        parameter.requires_grad_(True)
