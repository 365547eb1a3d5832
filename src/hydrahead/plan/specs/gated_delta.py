"""Gated delta rule (Gated DeltaNet, arXiv 2412.06464).

    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T        o_t = scale * S_t^T q_t

One fp32 state of head_dim x head_dim per group, whatever the context; with a short convolution on
q, k and v, also the last `conv_size - 1` inputs of it.
"""

from typing import Literal

from pydantic import Field, field_validator

from hydrahead.plan.specs.base import HeadShape, MixerSpec


class GatedDeltaSpec(MixerSpec, frozen=True):
    """Settings of the gated delta rule."""

    name: Literal["gated_delta"] = "gated_delta"
    conv_size: int = Field(default=4, ge=0)
    """Taps of the causal convolution on q, k and v, which starts as the identity; 0 is none."""
    rope: bool = True
    """Rotary positions on q and k."""
    qk_norm: bool = True
    """Keep the teacher's per-head RMSNorm of q and k, if any; both are L2-normalised after it."""
    expand_kv: bool = False
    """Every q_head gets its own copy of the group's keys and values (HALO, HydraHead)."""
    negative_eigenvalues: bool = False
    """b_t in (0, 2) instead of (0, 1)."""
    output_gate: bool = False
    """Gate each head's output by the layer's input; it starts as exactly 1."""
    normalise_output: bool = True
    chunk_size: int = 64
    """Tokens per chunk of the chunked form; a power of two. It changes speed, not results."""

    @field_validator("chunk_size")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value < 1 or value & (value - 1):
            raise ValueError(f"chunk_size is a power of two, not {value}")
        return value

    @property
    def one_group_per_q_head(self) -> bool:
        """As `expand_kv` says."""
        return self.expand_kv

    def kv_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        """No keys or values are kept."""
        return 0

    def state_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        """The fp32 state of every group, and the convolution's tail, always held at full size."""
        recurrent = heads.num_groups * heads.head_dim * heads.head_dim * 4
        channels = (heads.num_heads + 2 * heads.num_groups) * heads.head_dim
        return recurrent + max(self.conv_size - 1, 0) * channels * element_bytes

    def flops(self, heads: HeadShape, context: int) -> int:
        """State update and read, and the convolution; a multiply-add counts as 2.

        In units of head_dim^2, per group: decay 1, S^T k 2, rank-one update 2; per q_head: S^T q 2.
        The convolution takes 2 per tap and channel.
        """
        square = heads.head_dim * heads.head_dim
        channels = (heads.num_heads + 2 * heads.num_groups) * heads.head_dim
        return (5 * heads.num_groups + 2 * heads.num_heads) * square + 2 * self.conv_size * channels
