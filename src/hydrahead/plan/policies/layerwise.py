"""Whole layers stay full, those whose q_heads score highest on average (HALO and its like).

The mean is over the layer's q_heads whatever the unit is, so both units choose the same layers. It
is the mean and not the maximum because a layer is kept, and paid for, for all of its heads.
"""

from hydrahead.plan.policies.contract import Policy


def _one_round(rank: int, minimum: int) -> int:
    return 0


LAYERWISE = Policy(item="layer", rounds=_one_round)
