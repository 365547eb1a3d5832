"""From gates to a plan: exactly as many full units as the budget says, the most open ones.

Rounding each gate by itself (log-odds above 0, as the paper does) gives a number of full units that
the constraint does not control: it counts P(z > 0), of which a gate at log-odds 0 has 83 %. So the
budget is met by rank, and the distance between what the gates expect and what the plan has is
reported. Gates at their common limit are ordered by their mean over the run.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.budget import FullFraction
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.make import make_plan
from hydrahead.plan.planned import PlannedResult
from hydrahead.plan.scores import HeadScores, random_scores
from hydrahead.transfer.allocation.lagrangian import Scope
from hydrahead.transfer.allocation.pair import Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a budget means in whole units.

    Attributes:
        unit: What has a gate: a kv_head, or a layer.
        scope: Whether each layer meets the budget, or all together.
        requested: The full fraction asked for; None where bytes were.
        kv_bytes: (bytes, context) where those were asked for.
        full_fraction: The share of whole units that comes of it.
    """

    unit: str
    scope: Scope
    requested: float | None
    kv_bytes: tuple[int, int] | None
    full_fraction: float

    @property
    def policy(self) -> str:
        """The policy that rounds to this target."""
        if self.unit == "layer":
            return "layerwise"
        return "per_layer_top" if self.scope == "layer" else "global_top"

    def columns(self, geometry: ModelGeometry) -> int:
        """Gates in a layer."""
        return 1 if self.unit == "layer" else geometry.num_kv_heads


def find_target(
    geometry: ModelGeometry,
    pair: Pair,
    *,
    full_fraction: float | None,
    kv_bytes: tuple[int, int] | None,
    unit: str,
    scope: Scope,
) -> Target:
    """Round the budget to whole units, halves up.

    Raises:
        HydraHeadError: No or two budgets, one outside (0, 1), one that rounds to all units or none,
            bytes that no plan meets, or a layer scope for whole layers.
    """
    _check_budget(geometry, full_fraction, kv_bytes, unit, scope)
    layers = len(geometry.free_layers)
    columns = 1 if unit == "layer" else geometry.num_kv_heads
    rows = layers if scope == "layer" else 1
    per_row = layers * columns // rows
    if full_fraction is not None:
        count = FullFraction(full_fraction).count(per_row)
    else:
        assert kv_bytes is not None
        count = _count_of_bytes(geometry, pair, kv_bytes, unit) // rows
    if not 0 < count < per_row:
        what = "layers" if unit == "layer" else "kv_heads" + (" of a layer" if rows > 1 else "")
        raise HydraHeadError(
            f"the budget rounds to {count} of {per_row} {what}: there is nothing to learn",
            mend=f"ask for {1 / per_row:.3g} to {1 - 1 / per_row:.3g}, or another scope or unit",
        )
    return Target(
        unit=unit,
        scope=scope,
        requested=full_fraction,
        kv_bytes=kv_bytes,
        full_fraction=count / per_row,
    )


def _check_budget(
    geometry: ModelGeometry,
    full_fraction: float | None,
    kv_bytes: tuple[int, int] | None,
    unit: str,
    scope: Scope,
) -> None:
    """What is wrong before anything is counted."""
    if unit not in ("kv_head", "layer"):
        raise HydraHeadError(f"unit is {unit!r}", mend="use kv_head or layer")
    if unit == "layer" and scope == "layer":
        raise HydraHeadError(
            "a layer that is one unit cannot meet a budget by itself",
            where="scope",
            mend="use --scope global with --unit layer",
        )
    if (full_fraction is None) == (kv_bytes is None):
        given = "no budget is" if full_fraction is None else "two budgets are"
        raise HydraHeadError(f"{given} given", mend="give full_fraction or kv_bytes, not both")
    if full_fraction is not None and not 0 < full_fraction < 1:
        raise HydraHeadError(
            f"full_fraction is {full_fraction}",
            mend="give a share between 0 and 1: at either end there is nothing to learn",
        )
    if not geometry.free_layers:
        raise HydraHeadError(
            "every layer of the model has a sliding window of its own: nothing can be allocated",
            mend="leave the model as it is; its cache is bounded already",
        )


def _count_of_bytes(
    geometry: ModelGeometry, pair: Pair, kv_bytes: tuple[int, int], unit: str
) -> int:
    """Full units that fit; every free unit costs the same, so any scores give the number."""
    if pair.kept.name != "full":
        raise HydraHeadError(
            f"a budget of bytes needs full attention as the first mixer, not {pair.kept.name}",
            mend="give full_fraction",
        )
    planned = make_plan(
        random_scores(geometry, 0),
        kv_bytes=kv_bytes,
        policy="layerwise" if unit == "layer" else "global_top",
        linear=pair.replacement,
    )
    return planned.num_chosen


def gate_scores(
    geometry: ModelGeometry, openness: Tensor, history: Tensor, settings: dict[str, Any]
) -> HeadScores:
    """Scores per q_head [layer, q_head]: the gate of its unit, ties ordered by its mean."""
    return HeadScores(
        geometry=geometry,
        method="allocation",
        values=_by_q_head(geometry, openness),
        secondary=_by_q_head(geometry, history.mean(dim=0)),
        settings=settings,
    )


def round_gates(scores: HeadScores, pair: Pair, target: Target) -> PlannedResult:
    """The plan with exactly the target's units kept.

    `PlannedResult.plan` runs full attention there; `with_pair` puts in another first mixer.
    """
    return make_plan(
        scores,
        full_fraction=target.full_fraction,
        policy=target.policy,
        linear=pair.replacement,
    )


def with_pair(plan: HeadPlan, pair: Pair) -> HeadPlan:
    """The plan with the pair's first mixer on the units that were kept."""
    kept = {(layer, unit): pair.kept for layer, unit, s in plan.free_units() if s.name == "full"}
    return plan.replace(kept)


def _by_q_head(geometry: ModelGeometry, rows: Tensor) -> np.ndarray:
    """[free layer, column] -> [layer, q_head]; 0 in layers that are not free."""
    values = np.zeros((geometry.num_layers, geometry.num_q_heads))
    repeated = np.repeat(rows.double().numpy(), geometry.num_q_heads // rows.shape[1], axis=1)
    values[list(geometry.free_layers)] = repeated
    return values
