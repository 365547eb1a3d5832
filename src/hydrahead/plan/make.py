"""`make_plan`: from scores to a plan within a budget."""

from collections.abc import Sequence
from itertools import accumulate

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.budget import Budget, FullFraction, KvBytes, format_tokens
from hydrahead.plan.cost import PlanCost, mixers_cost
from hydrahead.plan.geometry import ModelGeometry, Unit
from hydrahead.plan.grouping import assign_mixers
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.planned import PlannedResult
from hydrahead.plan.policies import POLICIES
from hydrahead.plan.policies.contract import Policy
from hydrahead.plan.presets import preset_specs
from hydrahead.plan.ranking import Item, count_ties, rank_items
from hydrahead.plan.scores import HeadScores
from hydrahead.plan.specs.base import MixerSpec


def make_plan(
    scores: HeadScores,
    *,
    full_fraction: float | None = None,
    kv_bytes: tuple[int, int] | None = None,
    policy: str = "global_top",
    unit: Unit = "kv_head",
    linear: str | MixerSpec = "gated_delta",
    preset: str = "plain",
    min_per_layer: int | None = None,
    kv_dtype: str = "bfloat16",
) -> PlannedResult:
    """Choose the units that stay full and give all others the linear mixer.

    Layers with a window of their own are no part of the choice. Nothing here is random: equal
    scores are ordered by the secondary score, then by (layer, unit), and counted.

    Args:
        scores: which q_heads matter; a kv_head's score is the maximum over its group.
        full_fraction: share of the free units that stay full, halves rounded up.
        kv_bytes: (bytes, context) instead: as many units as keep kv_bytes + state_bytes of one
            sequence of `context` tokens within `bytes`.
        policy: a name of `POLICIES`.
        unit: what is given away.
        linear: the mixer of the other units: a name with settings ("window:window=128,sinks=4"),
            or a spec.
        preset: a name of `PRESETS`.
        min_per_layer: full units every layer keeps, for constrained_top. By default 1 for q_heads
            and 0 for kv_heads, and 0 where full_fraction is 0 (the twins).
        kv_dtype: dtype of cached keys and values that `kv_bytes` counts in.

    Raises:
        HydraHeadError: none or two budgets, one that cannot be met, an unknown name or setting, a
            model without a free layer.
    """
    budget = _budget(full_fraction, kv_bytes)
    if unit not in ("kv_head", "q_head"):
        raise HydraHeadError(f"unit is {unit!r}", mend="use kv_head or q_head")
    rules: Policy = POLICIES.load(policy)
    full, replacement = preset_specs(preset, linear)
    geometry = scores.geometry
    if not geometry.free_layers:
        raise HydraHeadError(
            "every layer of the model has a sliding window of its own: there is nothing to plan",
            mend="leave the model as it is; its cache is bounded already",
        )
    minimum = _minimum(policy, rules, min_per_layer, unit, geometry, budget)
    items = rank_items(scores, unit, rules, minimum)
    start = HeadPlan.uniform(geometry, replacement, unit)
    forced = minimum * len(geometry.free_layers)
    match budget:
        case FullFraction():
            count = _count_for_fraction(budget, items, forced, minimum, unit)
        case KvBytes():
            totals = _running_totals(start, items, full, budget.context, kv_dtype)
            count = _count_for_bytes(budget, totals, forced, len(items[0].units), unit)
    per_layer = len(items) // len(geometry.free_layers)
    bounds = rules.bounds(count, len(geometry.free_layers), per_layer, minimum)
    chosen = items[:count]
    changes = {(item.layer, unit_index): full for item in chosen for unit_index in item.units}
    return PlannedResult(
        plan=start.replace(changes),
        budget=budget,
        kv_dtype=kv_dtype,
        policy=policy,
        preset=preset,
        linear=replacement,
        min_per_layer=minimum if rules.takes_minimum else None,
        item=rules.item,
        num_items=len(items),
        num_chosen=count,
        free_slots=count - bounds.least * len(geometry.free_layers),
        ties=count_ties(items, count, bounds),
    )


def _budget(full_fraction: float | None, kv_bytes: tuple[int, int] | None) -> Budget:
    if full_fraction is not None and kv_bytes is None:
        return FullFraction(full_fraction)
    if kv_bytes is not None and full_fraction is None:
        return KvBytes(*kv_bytes)
    given = "no budget is" if full_fraction is None else "two budgets are"
    raise HydraHeadError(f"{given} given", mend="give full_fraction or kv_bytes, not both")


def _minimum(
    name: str,
    policy: Policy,
    asked: int | None,
    unit: Unit,
    geometry: ModelGeometry,
    budget: Budget,
) -> int:
    if asked is None:
        return 0 if budget == FullFraction(0) else policy.default_minimum(unit)
    if not policy.takes_minimum and asked != 0:
        raise HydraHeadError(
            f"policy {name} has no min_per_layer",
            mend="use policy constrained_top, or leave it out",
        )
    most = geometry.units_per_layer(unit)
    if not 0 <= asked <= most:
        raise HydraHeadError(
            f"min_per_layer is {asked}", mend=f"a layer has {most} {unit}s: give 0 to {most}"
        )
    return asked


def _count_for_fraction(
    budget: FullFraction, items: Sequence[Item], forced: int, minimum: int, unit: Unit
) -> int:
    count = budget.count(len(items))
    if count < forced:
        raise HydraHeadError(
            f"min_per_layer {minimum} takes {forced} of {len(items)} {unit}s, but full_fraction "
            f"{budget.value:g} allows {count}",
            mend=f"give full_fraction {forced / len(items):.4g} or more, or a lower min_per_layer",
        )
    return count


def _running_totals(
    start: HeadPlan, items: Sequence[Item], full: MixerSpec, context: int, kv_dtype: str
) -> list[int]:
    """kv_bytes + state_bytes with the first 0, 1, 2 ... items full."""
    geometry, unit = start.geometry, start.unit
    units = [list(layer.units) for layer in start.layers]
    beside = [
        start.layer_cost(layer, context, kv_dtype=kv_dtype)
        - _units_cost(start, layer, context, kv_dtype)
        for layer in range(geometry.num_layers)
    ]

    def total(layer: int) -> int:
        cost: PlanCost = beside[layer] + mixers_cost(
            assign_mixers(geometry, unit, units[layer]),
            head_dim=geometry.head_dim,
            hidden_size=geometry.hidden_size,
            context=context,
            kv_dtype=kv_dtype,
        )
        return cost.total_bytes

    current = [total(layer) for layer in range(geometry.num_layers)]
    steps = [sum(current)]
    for item in items:
        for index in item.units:
            units[item.layer][index] = full
        before, current[item.layer] = current[item.layer], total(item.layer)
        steps.append(current[item.layer] - before)
    return list(accumulate(steps))


def _units_cost(plan: HeadPlan, layer: int, context: int, kv_dtype: str) -> PlanCost:
    """The cost of a layer without its parallel mixers."""
    return mixers_cost(
        plan.layer_mixers(layer),
        head_dim=plan.geometry.head_dim,
        hidden_size=plan.geometry.hidden_size,
        context=context,
        kv_dtype=kv_dtype,
    )


def _count_for_bytes(
    budget: KvBytes, totals: Sequence[int], forced: int, per_item: int, unit: Unit
) -> int:
    """The largest count that fits; a full unit may cost less than a state at a short context."""
    allowed = range(forced, len(totals))
    fitting = [count for count in allowed if totals[count] <= budget.limit]
    if not fitting:
        least = min(allowed, key=lambda count: totals[count])
        most = max(totals)
        place = f"at {format_tokens(budget.context)} tokens"
        raise HydraHeadError(
            f"{budget.limit} bytes {place} are too few: the least is {totals[least]} bytes, with "
            f"{least * per_item} full {unit}s, and the most any plan here takes is {most}",
            mend="give more bytes, a shorter context or a mixer with a smaller state",
        )
    return fitting[-1]
