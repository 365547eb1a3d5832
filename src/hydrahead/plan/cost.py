"""What a plan costs: bytes held per sequence, and operations per new token.

The bytes equal what the mixers' states hold (law 7). Comparisons are made at equal kv_bytes +
state_bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hydrahead.core.errors import unknown_name
from hydrahead.plan.assignment import MixerAssignment
from hydrahead.plan.specs.base import HeadShape

ELEMENT_BYTES = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}
"""Bytes of one cached number, by the name of its dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCost:
    """The honest cost of a plan, or of a part of one."""

    kv_bytes: int = 0
    """Cached keys and values: grows with the context (a window's up to its length)."""
    state_bytes: int = 0
    """Everything else the mixers remember: recurrent states (fp32) and convolution tails."""
    flops: int = 0
    """Operations to mix one new token per sequence, projections excluded."""

    @property
    def total_bytes(self) -> int:
        """kv_bytes + state_bytes: what comparisons are made at."""
        return self.kv_bytes + self.state_bytes

    def __add__(self, other: "PlanCost") -> "PlanCost":
        return PlanCost(
            kv_bytes=self.kv_bytes + other.kv_bytes,
            state_bytes=self.state_bytes + other.state_bytes,
            flops=self.flops + other.flops,
        )

    def __sub__(self, other: "PlanCost") -> "PlanCost":
        return self + other * -1

    def __mul__(self, factor: int) -> "PlanCost":
        return PlanCost(
            kv_bytes=self.kv_bytes * factor,
            state_bytes=self.state_bytes * factor,
            flops=self.flops * factor,
        )


def element_bytes(kv_dtype: str) -> int:
    """Bytes per element of `kv_dtype`; an unknown name raises HydraHeadError."""
    if kv_dtype not in ELEMENT_BYTES:
        raise unknown_name("kv_dtype", kv_dtype, ELEMENT_BYTES)
    return ELEMENT_BYTES[kv_dtype]


def mixers_cost(
    mixers: Iterable[MixerAssignment],
    *,
    head_dim: int,
    hidden_size: int,
    context: int,
    kv_dtype: str = "bfloat16",
) -> PlanCost:
    """Cost of some mixers of one layer for one sequence after `context` tokens."""
    size = element_bytes(kv_dtype)
    total = PlanCost()
    for mixer in mixers:
        heads = HeadShape(
            num_groups=len(mixer.groups),
            num_heads=len(mixer.q_slots),
            head_dim=head_dim,
            hidden_size=hidden_size,
        )
        total += PlanCost(
            kv_bytes=mixer.spec.kv_bytes(heads, context, size),
            state_bytes=mixer.spec.state_bytes(heads, context, size),
            flops=mixer.spec.flops(heads, context),
        )
    return total
