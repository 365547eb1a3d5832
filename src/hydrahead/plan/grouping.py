"""Which groups each mixer of a layer runs, given the spec of every unit."""

from collections.abc import Iterable, Sequence

from hydrahead.plan.assignment import HeadGroup, MixerAssignment
from hydrahead.plan.geometry import ModelGeometry, Unit
from hydrahead.plan.specs.base import MixerSpec


def assign_mixers(
    geometry: ModelGeometry, unit: Unit, units: Sequence[MixerSpec]
) -> tuple[MixerAssignment, ...]:
    """One mixer per distinct spec of `units`, in order of its first unit, with its groups.

    A mixer that shares keys when split stores a kv_head once, for those of its q_heads that it
    runs. Any other gets one group per q_head if its spec expands or the units are q_heads, and
    whole kv_heads else.
    """
    q_heads: dict[MixerSpec, list[int]] = {}
    for index, spec in enumerate(units):
        members = (index,) if unit == "q_head" else geometry.q_heads_of(index)
        q_heads.setdefault(spec, []).extend(members)
    mixers: list[MixerAssignment] = []
    for spec, members in q_heads.items():
        split = unit == "q_head" and not spec.shares_keys_when_split
        groups = (
            groups_of_one(geometry, members)
            if split or spec.one_group_per_q_head
            else groups_by_kv_head(geometry, members)
        )
        mixers.append(MixerAssignment(spec=spec, groups=groups))
    return tuple(mixers)


def groups_of_one(geometry: ModelGeometry, q_heads: Iterable[int]) -> tuple[HeadGroup, ...]:
    """Every q_head with keys and values of its own."""
    return tuple(HeadGroup(kv_head=geometry.kv_head_of(q), q_heads=(q,)) for q in q_heads)


def groups_by_kv_head(geometry: ModelGeometry, q_heads: Iterable[int]) -> tuple[HeadGroup, ...]:
    """One group per kv_head that any of `q_heads` (ascending) reads."""
    by_kv_head: dict[int, list[int]] = {}
    for q_head in q_heads:
        by_kv_head.setdefault(geometry.kv_head_of(q_head), []).append(q_head)
    return tuple(HeadGroup(kv_head=kv, q_heads=tuple(qs)) for kv, qs in by_kv_head.items())
