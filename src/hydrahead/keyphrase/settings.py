"""Settings of one training run; what decides the weights beside the data and the encoder."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

from hydrahead.keyphrase.context import ALL

FULL_LR = 5e-5
"""For a whole encoder: the recipe of the same group's earlier tagger (specs: 6.5)."""
HEAD_LR = 4e-3
"""For what is new: of 1e-3 and 4e-3 the better one for the plain tagger on the validation split of
our study."""


class KeyphraseSettings(BaseModel):
    """How to build a tagger and how to train it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_tokens: PositiveInt | None = None
    """Tokens of a window; None: 512, or what the encoder reads if that is less."""
    neighbours: int = Field(default=ALL, ge=ALL)
    """Windows to each side that are looked at; -1 or "all": the whole document, 0: none."""
    join: Literal["concat", "add"] = "concat"
    width: PositiveInt | None = None
    """Of the cross-attention; None: what adds at most 0.25 % to the encoder."""
    num_expansion_heads: PositiveInt = 1
    train_static: bool = False
    dropout: float = Field(default=0.1, ge=0, lt=1)
    max_phrase_words: PositiveInt = 6

    freeze_encoder: bool = False
    """Train only what is new; the encoder then reads every window once, not once per epoch."""
    epochs: PositiveInt = 10
    batch_size: PositiveInt = 16
    """Windows per step, all of one document."""
    lr: float | None = Field(default=None, gt=0)
    """Of the encoder; None: 5e-5."""
    head_lr: float | None = Field(default=None, gt=0)
    """Of everything new; None: 4e-3."""
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Of all steps; then the learning rate falls linearly to zero."""
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes the encoder so; parameters stay float32."""
    checkpoint_every: PositiveInt = 500
    """Steps; and at the end of every epoch."""
    log_every: PositiveInt = 20
    control: Literal["none", "shuffled"] = "none"
    """shuffled: every document looks at the words of another one, in training and validation. A
    gain that survives it does not come from the context."""

    @field_validator("neighbours", mode="before")
    @classmethod
    def _read_all(cls, value: Any) -> Any:
        return ALL if value == "all" else value

    def lr_scale(self, step: int, num_steps: int) -> float:
        """What the learning rates of step `step` (0-based) are multiplied by."""
        warmup = max(1, round(self.warmup_share * num_steps))
        if step < warmup:
            return (step + 1) / warmup
        return max(0.0, (num_steps - step) / max(1, num_steps - warmup))
