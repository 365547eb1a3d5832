"""Lightning attention: linear attention with a fixed decay (arXiv 2401.04658, HALO 2601.22156).

    S_t = a_h S_{t-1} + k_t v_t^T        o_t = scale * S_t^T q_t        a_h = exp(-2^(-8 h / H))

h = 1 ... H counts the teacher's q_head slots of the layer, so a head keeps its decay whichever
heads run beside it. One fp32 state of head_dim x head_dim per group.
"""

from typing import Literal

from hydrahead.plan.specs.base import HeadShape, MixerSpec


class LightningSpec(MixerSpec, frozen=True):
    """Settings of lightning attention."""

    name: Literal["lightning"] = "lightning"
    rope: bool = True
    """Rotary positions on q and k."""
    qk_norm: bool = True
    """Keep the teacher's per-head RMSNorm of q and k, if it has one."""
    expand_kv: bool = False
    """Every q_head gets its own copy of the group's keys and values (HALO, HydraHead)."""
    output_gate: bool = False
    """Gate each head's output by the layer's input; it starts as exactly 1."""
    normalise_output: bool = True
    decay: Literal["slope"] = "slope"
    """How the decay is set: "slope" is exp(-2^(-8 h / H)) by teacher slot."""

    @property
    def one_group_per_q_head(self) -> bool:
        """As `expand_kv` says."""
        return self.expand_kv

    def kv_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        """No keys or values are kept."""
        return 0

    def state_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        """The fp32 state of every group."""
        return heads.num_groups * heads.head_dim * heads.head_dim * 4

    def flops(self, heads: HeadShape, context: int) -> int:
        """State update and read; a multiply-add counts as 2.

        In units of head_dim^2, per group: decay 1, rank-one update 2; per q_head: S^T q 2.
        """
        square = heads.head_dim * heads.head_dim
        return (3 * heads.num_groups + 2 * heads.num_heads) * square
