"""Which slots of one layer one mixer runs.

A slot is a q_head or kv_head place of the teacher. A mixer sees its slots as groups: one key/value
head and the q_heads that read it. The mixer's own head order ("mixer order") is the concatenation
of the groups' q_heads; `q_slots` maps it back to the teacher's slots.
"""

from dataclasses import dataclass

from hydrahead.plan.specs.base import MixerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadGroup:
    """One key/value head and the q_heads (teacher slots, ascending) that read it."""

    kv_head: int
    q_heads: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MixerAssignment:
    """One mixer of one layer: its settings and its groups, sorted by (kv_head, first q_head)."""

    spec: MixerSpec
    groups: tuple[HeadGroup, ...]

    @property
    def q_slots(self) -> tuple[int, ...]:
        """Teacher slot of every q_head, in mixer order."""
        return tuple(q for group in self.groups for q in group.q_heads)

    @property
    def kv_slots(self) -> tuple[int, ...]:
        """Teacher kv_head of every group, in mixer order."""
        return tuple(group.kv_head for group in self.groups)
