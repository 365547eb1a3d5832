"""The order in which a policy takes items, and how much of a choice is owed to ties."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hydrahead.plan.geometry import Unit
from hydrahead.plan.policies.contract import Bounds, Policy
from hydrahead.plan.scores import Floats, HeadScores


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something a policy takes at once: a unit, or all units of a layer."""

    layer: int
    units: tuple[int, ...]
    value: float
    secondary: float
    """Orders items of the same value; 0 where the scores have no secondary array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties:
    """Chosen items that share their score with one left out that could have replaced them."""

    by_secondary: int
    """Decided by the secondary score."""
    by_order: int
    """Decided by mere order (layer, unit): the secondary score was the same too, or absent."""

    @property
    def total(self) -> int:
        """All chosen items that a tie-break decided."""
        return self.by_secondary + self.by_order


def rank_items(scores: HeadScores, unit: Unit, policy: Policy, minimum: int) -> tuple[Item, ...]:
    """All items of the free layers in the order `policy` takes them.

    Within a round: by value, then by secondary score, then by (layer, unit).
    """
    by_layer = [_layer_items(scores, unit, policy, layer) for layer in scores.geometry.free_layers]
    keyed = [
        ((policy.rounds(rank, minimum), *_best_first(item)), item)
        for items in by_layer
        for rank, item in enumerate(sorted(items, key=_best_first))
    ]
    return tuple(item for _, item in sorted(keyed, key=lambda pair: pair[0]))


def count_ties(items: Sequence[Item], count: int, bounds: Bounds) -> Ties:
    """How many of the first `count` items a tie-break chose over one that was left out.

    An item could have been replaced by one of its own layer, and by one of another layer if both
    layers stay within `bounds`.
    """
    chosen, left_out = items[:count], items[count:]
    taken = Counter(item.layer for item in chosen)
    in_layer: dict[tuple[int, float], set[float]] = defaultdict(set)
    anywhere: dict[float, set[float]] = defaultdict(set)
    for item in left_out:
        in_layer[item.layer, item.value].add(item.secondary)
        if taken[item.layer] < bounds.most:
            anywhere[item.value].add(item.secondary)
    by_secondary = by_order = 0
    for item in chosen:
        rivals = set(in_layer.get((item.layer, item.value), ()))
        if taken[item.layer] > bounds.least:
            rivals |= anywhere.get(item.value, set())
        if item.secondary in rivals:
            by_order += 1
        elif rivals:
            by_secondary += 1
    return Ties(by_secondary=by_secondary, by_order=by_order)


def _layer_items(scores: HeadScores, unit: Unit, policy: Policy, layer: int) -> list[Item]:
    num_units = scores.geometry.units_per_layer(unit)
    per_item = num_units if policy.item == "layer" else 1
    values = _per_item(scores, scores.values, unit, policy)[layer]
    secondary = np.zeros_like(values)
    if scores.secondary is not None:
        secondary = _per_item(scores, scores.secondary, unit, policy)[layer]
    return [
        Item(
            layer=layer,
            units=tuple(range(i * per_item, (i + 1) * per_item)),
            value=float(values[i]),
            secondary=float(secondary[i]),
        )
        for i in range(num_units // per_item)
    ]


def _best_first(item: Item) -> tuple[float, float, int, int]:
    return -item.value, -item.secondary, item.layer, item.units[0]


def _per_item(scores: HeadScores, array: Floats, unit: Unit, policy: Policy) -> Floats:
    """[layer, q_head] -> [layer, item]."""
    if policy.item == "layer":
        return array.mean(axis=1, keepdims=True)
    return array if unit == "q_head" else scores.group_maximum(array)
