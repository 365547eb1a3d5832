"""Sliding-window attention with sinks.

A query sees the keys at a distance below `window` (itself is at distance 0), and the first `sinks`
positions of its document. This is transformers' convention for `sliding_window`, so
WindowSpec(window=w, sinks=0) is the attention of a teacher layer whose own window is w.
"""

from typing import Any, Literal

from pydantic import Field

from hydrahead.plan.specs.base import HeadShape, MixerSpec


class WindowSpec(MixerSpec, frozen=True):
    """Settings of sliding-window attention."""

    name: Literal["window"] = "window"
    window: int = Field(ge=1)
    """A query sees keys whose distance is below this (tokens)."""
    sinks: int = Field(default=4, ge=0)
    """First positions of the document that stay visible (StreamingLLM, arXiv 2309.17453)."""
    rope: bool = True
    """Rotary positions on q and k, as the teacher has them."""
    qk_norm: bool = True
    """Keep the teacher's per-head RMSNorm of q and k, if it has one."""
    log_length_scale: float | None = Field(default=None, gt=1, allow_inf_nan=False)
    """Base a of the query scale s_t = log_a(t + a), t counted within the document."""
    output_gate: bool = False
    """Gate each head's output by the layer's input; it starts as exactly 1."""
    normalise_output: bool = False

    @property
    def shares_keys_when_split(self) -> bool:
        """A kv_head is stored once, whatever other mixers read it too."""
        return True

    @property
    def equals_full_up_to(self) -> int | None:
        """The window: a sink within it is seen anyway."""
        return self.window

    @classmethod
    def suggested(cls, length: int) -> dict[str, Any]:
        """An eighth of the rows."""
        return {"window": max(1, length // 8)}

    def kv_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        """Keys and values of the newest `window` tokens, and of the sinks in slots of their own.

        The sinks are stored beside the tail from the first token on, also while they lie within it.
        """
        entries = min(context, self.window) + min(context, self.sinks)
        return 2 * heads.num_groups * heads.head_dim * entries * element_bytes

    def state_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        """None: the cached keys and values are all there is."""
        return 0

    def flops(self, heads: HeadShape, context: int) -> int:
        """QK^T and PV over the keys the new token sees, itself included; a multiply-add is 2."""
        in_window = min(context + 1, self.window)
        seen = in_window + min(self.sinks, context + 1 - in_window)
        return 4 * heads.num_heads * heads.head_dim * seen
