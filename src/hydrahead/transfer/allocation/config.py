"""Settings of `allocate`; everything is saved with the result."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from hydrahead.training.config import TrainConfig
from hydrahead.transfer.allocation.hard_concrete import HardConcrete


class AllocateConfig(BaseModel):
    """How gates are trained. Rates of gates and multipliers are not the paper's: it names none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the model; gates and multipliers are float32 either way."""
    attn_implementation: str = "sdpa"
    seed: int = 0
    steps: PositiveInt = 1000
    batch_size: PositiveInt = 8
    length: PositiveInt = 512
    """Tokens per row."""
    accumulation: PositiveInt = 1
    gates: str = "hard_concrete"
    """A form of gates: hard_concrete (ConSA) or l1 (DuoAttention)."""
    loss: Literal["next_token", "answers"] | None = None
    """The task loss. None: next_token for hard_concrete, answers for l1."""
    hard_concrete: HardConcrete = HardConcrete()
    initial_log_odds: float = Field(default=5.0, allow_inf_nan=False)
    log_odds_limit: float = Field(default=8.0, gt=0, allow_inf_nan=False)
    """Log-odds stay within plus and minus this."""
    gate_lr: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    multiplier_lr: float = Field(default=0.3, gt=0, allow_inf_nan=False)
    """The larger, the sooner the budget is met, and the less the task decides who stays open."""
    target_warmup: float = Field(default=0.5, ge=0, le=1)
    """Share of the steps over which the target falls from 1 to the budget."""
    rate_decay: float = Field(default=0.3, ge=0, le=1)
    """Share of the steps, the last ones, over which the rates fall."""
    l1_lr: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    l1_weight: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    train_weights: bool = False
    """Train the model's weights as well, as the paper does; they are written beside the plan."""
    weights_lr: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    clip: float | None = Field(default=1.0, gt=0)
    """Largest global norm of the weights' gradient."""
    checkpoint_every: PositiveInt = 100
    log_every: PositiveInt = 10
    activation_checkpointing: bool = False

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if abs(self.initial_log_odds) > self.log_odds_limit:
            raise ValueError(
                f"initial_log_odds {self.initial_log_odds:g} is beyond log_odds_limit "
                f"{self.log_odds_limit:g}"
            )
        return self

    def training(self) -> TrainConfig:
        """The loop's settings; its learning rate is that of the weights."""
        return TrainConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            length=self.length,
            accumulation=self.accumulation,
            lr=self.weights_lr,
            min_lr=self.weights_lr / 10,
            warmup_steps=min(50, self.steps // 10),
            clip=self.clip,
            seed=self.seed,
            dtype=self.dtype,
            checkpoint_every=self.checkpoint_every,
            log_every=self.log_every,
            activation_checkpointing=self.activation_checkpointing,
        )
