"""Mamba-2 heads beside the attention (arXiv 2405.21060; in Falcon-H1, arXiv 2507.22448).

    S_t = exp(dt_t A_h) S_{t-1} + dt_t B_t x_t^T        y_t = S_t^T C_t + D_h x_t

They are heads of their own: a parallel mixer, which takes no slot of the attention and is no part
of `full_fraction`. One fp32 state of state_size x head_dim per head, whatever the context, and the
last `conv_size - 1` inputs of the convolution on x, B and C.
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hydrahead.plan.specs.base import HeadShape, MixerSpec


class Mamba2Spec(MixerSpec, frozen=True):
    """Settings of Mamba-2 heads; multipliers are Falcon-H1's (muP)."""

    name: Literal["mamba2"] = "mamba2"
    heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    """Width of a head's x and of its output (P)."""
    state_size: int = Field(ge=1)
    """Rows of a head's state (N)."""
    groups: int = Field(default=1, ge=1)
    """Heads of a group share B and C."""
    conv_size: int = Field(default=4, ge=1)
    """Taps of the causal convolution on x, B and C."""
    conv_bias: bool = True
    input_bias: bool = False
    """Bias on the projection of the layer's input."""
    output_bias: bool = False
    norm: Literal["none", "after_gate", "before_gate"] = "none"
    """RMSNorm of the outputs, group by group: none, after or before the gate SiLU(z)."""
    dt_min: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Least step dt; with `dt_max`, the range it is clipped to."""
    dt_max: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Greatest step; None is no limit."""
    input_multiplier: float = Field(default=1.0, allow_inf_nan=False)
    output_multiplier: float = Field(default=1.0, allow_inf_nan=False)
    z_multiplier: float = Field(default=1.0, allow_inf_nan=False)
    x_multiplier: float = Field(default=1.0, allow_inf_nan=False)
    b_multiplier: float = Field(default=1.0, allow_inf_nan=False)
    c_multiplier: float = Field(default=1.0, allow_inf_nan=False)
    dt_multiplier: float = Field(default=1.0, allow_inf_nan=False)
    normalise_output: Literal[False] = False
    """The fusion of slots never sees parallel heads."""
    chunk_size: int = Field(default=64, ge=1)
    """Tokens per chunk of the chunked form. It changes speed, not results."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heads % self.groups:
            raise ValueError(f"heads ({self.heads}) is not a multiple of groups ({self.groups})")
        if self.dt_max is not None and self.dt_max < self.dt_min:
            raise ValueError(f"dt_max ({self.dt_max}) is below dt_min ({self.dt_min})")
        return self

    @classmethod
    def examples(cls) -> list["Mamba2Spec"]:
        """Settings for tests that go through the table: each way of every switch."""
        small: dict[str, Any] = {"heads": 4, "head_dim": 3, "state_size": 5}
        multipliers: dict[str, Any] = {
            f"{name}_multiplier": 0.7 + 0.2 * place
            for place, name in enumerate(("z", "x", "b", "c", "dt", "input", "output"))
        }
        biases: dict[str, Any] = {"conv_bias": False, "input_bias": True, "output_bias": True}
        return [
            cls(**small),
            cls(**small, groups=2, norm="after_gate", **multipliers),
            cls(**small, groups=4, norm="before_gate", dt_min=0.2, dt_max=0.9, **biases),
            cls(**small, conv_size=1, chunk_size=2),
        ]

    @property
    def takes_slots(self) -> bool:
        """They bring heads of their own."""
        return False

    @property
    def beside(self) -> str:
        """As a map of the plan notes them."""
        return f"{self.heads} mamba2 heads"

    @property
    def width(self) -> int:
        """Channels of x, z and the output together over the heads (d_ssm)."""
        return self.heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        """Channels of x, B and C."""
        return self.width + 2 * self.groups * self.state_size

    @property
    def chunk_multipliers(self) -> tuple[tuple[float, int], ...]:
        """(multiplier, channels) of the input projection's five chunks, in its order."""
        shared = self.groups * self.state_size
        return (
            (self.z_multiplier, self.width),
            (self.x_multiplier, self.width),
            (self.b_multiplier, shared),
            (self.c_multiplier, shared),
            (self.dt_multiplier, self.heads),
        )

    def kv_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        """No keys or values are kept."""
        return 0

    def state_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        """The fp32 state of every head, and the convolution's tail, always held at full size."""
        recurrent = self.width * self.state_size * 4
        return recurrent + (self.conv_size - 1) * self.conv_channels * element_bytes

    def flops(self, heads: HeadShape, context: int) -> int:
        """State update and read, and the convolution; a multiply-add counts as 2.

        In units of head_dim * state_size, per head: decay 1, rank-one update 2, read 2. The skip D
        takes 2 per channel of x, the convolution 2 per tap and channel.
        """
        state = 5 * self.width * self.state_size
        return state + 2 * self.width + 2 * self.conv_size * self.conv_channels
