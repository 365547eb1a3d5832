"""The same number of units in every layer, the best ones of each.

Every layer gives its best unit, then its second best, and so on. If the budget ends within such a
round, the layers whose next unit scores highest get one more than the others.
"""

from hydrahead.plan.policies.contract import Bounds, Policy


def _by_rank(rank: int, minimum: int) -> int:
    return rank


def _even(count: int, num_layers: int, per_layer: int, minimum: int) -> Bounds:
    return Bounds(least=count // num_layers, most=-(-count // num_layers))


PER_LAYER_TOP = Policy(rounds=_by_rank, bounds=_even)
