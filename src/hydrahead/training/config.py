"""Settings of one training run, and the learning rate they imply at every step.

The learning rate is a pure function of the step, so resuming needs no scheduler state.
"""

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class TrainConfig(BaseModel):
    """How long, how wide and how fast to train; everything is saved with the result.

    Exactly one of `steps` and `tokens` is given. A step reads `batch_size * length * accumulation`
    tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt | None = None
    tokens: PositiveInt | None = None
    batch_size: PositiveInt = 8
    """Rows per micro-batch."""
    length: PositiveInt = 512
    """Tokens per row."""
    accumulation: PositiveInt = 1
    """Micro-batches per optimiser step; gradients are averaged over targets, not batches."""
    lr: float = Field(default=1e-3, gt=0)
    min_lr: float = Field(default=1e-5, ge=0)
    """Where the cosine ends; a constant schedule ignores it."""
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = Field(default=50, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    decay_embeddings: bool = False
    """Whether weight decay reaches embedding tables as well as matrices."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest global gradient norm (None: no clipping)."""
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; masters and optimiser state are float32 either way."""
    checkpoint_every: PositiveInt = 500
    keep_checkpoints: PositiveInt = 2
    log_every: PositiveInt = 10
    activation_checkpointing: bool = False
    compile: bool = False

    @model_validator(mode="after")
    def _check_extent(self) -> Self:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("give exactly one of steps and tokens")
        if self.schedule == "cosine" and self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")
        return self

    @property
    def tokens_per_step(self) -> int:
        """Tokens read by one optimiser step."""
        return self.batch_size * self.length * self.accumulation

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole run."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None
        return math.ceil(self.tokens / self.tokens_per_step)

    def lr_at(self, step: int) -> float:
        """Learning rate of step `step` (0-based): linear warm-up, then cosine or constant."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        span = max(1, self.num_steps - 1 - self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / span)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
