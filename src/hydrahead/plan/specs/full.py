"""Full softmax attention: every query sees every earlier token of its document.

The keys and values of every token are kept. The defaults are the teacher's own attention.
"""

from typing import Literal

from pydantic import Field

from hydrahead.plan.specs.base import HeadShape, MixerSpec


class FullSpec(MixerSpec, frozen=True):
    """Settings of full softmax attention."""

    name: Literal["full"] = "full"
    rope: bool = True
    """Rotary positions on q and k, as the teacher has them; False is NoPE (HydraHead, HyPE)."""
    qk_norm: bool = True
    """Keep the teacher's per-head RMSNorm of q and k, if it has one."""
    log_length_scale: float | None = Field(default=None, gt=1, allow_inf_nan=False)
    """Base a of the query scale s_t = log_a(t + a), t counted within the document."""
    output_gate: bool = False
    """Gate each head's output by the layer's input (arXiv 2505.06708); it starts as exactly 1."""
    normalise_output: bool = False

    @property
    def shares_keys_when_split(self) -> bool:
        """A kv_head is stored once, whatever other mixers read it too."""
        return True

    def kv_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        """Keys and values of every token."""
        return 2 * heads.num_groups * heads.head_dim * context * element_bytes

    def state_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        """None: the cached keys and values are all there is."""
        return 0

    def flops(self, heads: HeadShape, context: int) -> int:
        """QK^T and PV over the cached tokens and the new one; a multiply-add counts as 2."""
        return 4 * heads.num_heads * heads.head_dim * (context + 1)
