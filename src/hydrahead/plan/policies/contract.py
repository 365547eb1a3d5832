"""What a policy is: items to choose among, the rounds they are taken in, and bounds per layer.

Items (units, or whole layers) are taken round by round, within a round by score. So every policy is
one order, and a larger budget keeps what a smaller one chose.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hydrahead.plan.geometry import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many items any one layer may have chosen."""

    least: int
    most: int


def any_number(count: int, num_layers: int, per_layer: int, minimum: int) -> Bounds:
    """No constraint: as many as the layer has."""
    return Bounds(least=0, most=per_layer)


def no_minimum(unit: Unit) -> int:
    """The default `min_per_layer` of a policy without one."""
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How units that stay full are chosen.

    Attributes:
        item: what is taken at once.
        rounds: (rank within its layer, from 0; min_per_layer) -> the round each item is taken in.
        bounds: (items to take, layers, items per layer, min_per_layer) -> bounds they will respect.
        default_minimum: the `min_per_layer` that holds if none is given.
        takes_minimum: whether `min_per_layer` means anything here.
    """

    item: Literal["unit", "layer"] = "unit"
    rounds: Callable[[int, int], int]
    bounds: Callable[[int, int, int, int], Bounds] = any_number
    default_minimum: Callable[[Unit], int] = no_minimum
    takes_minimum: bool = False
