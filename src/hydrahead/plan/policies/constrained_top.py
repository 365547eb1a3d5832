"""At least `min_per_layer` units in every layer, then the best of the rest, wherever they are.

HydraHead's constrained global screening (arXiv 2606.20097): one full q_head per layer gained 23
points over the unconstrained ranking at full_fraction 0.125. With 8 kv_heads per layer that very
fraction would be used up by the constraint, so kv_heads have no minimum unless one is asked for.
"""

from hydrahead.plan.geometry import Unit
from hydrahead.plan.policies.contract import Bounds, Policy


def _minimum_first(rank: int, minimum: int) -> int:
    return 0 if rank < minimum else 1


def _at_least(count: int, num_layers: int, per_layer: int, minimum: int) -> Bounds:
    return Bounds(least=minimum, most=per_layer)


def _default_minimum(unit: Unit) -> int:
    return {"q_head": 1, "kv_head": 0}[unit]


CONSTRAINED_TOP = Policy(
    rounds=_minimum_first,
    bounds=_at_least,
    default_minimum=_default_minimum,
    takes_minimum=True,
)
