"""Random choices made of `Random.random()` alone.

Python promises the same sequence for `random()` in every version, and nothing for `choice` or
`shuffle`; samples must be the same on every machine.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


def below(rng: Random, stop: int) -> int:
    """A whole number in [0, stop)."""
    return int(rng.random() * stop)


def pick(rng: Random, items: Sequence[T]) -> T:
    """One of `items`."""
    return items[int(rng.random() * len(items))]


def pick_distinct(rng: Random, items: Sequence[T], count: int) -> list[T]:
    """`count` of `items`, no place twice, in random order."""
    assert count <= len(items), f"{count} of {len(items)}"
    chosen: dict[int, None] = {}
    if 3 * count > len(items):
        return shuffled(rng, items)[:count]
    while len(chosen) < count:
        chosen.setdefault(below(rng, len(items)))
    return [items[i] for i in chosen]


def shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    """`items` in random order (Fisher-Yates)."""
    order = list(items)
    for last in range(len(order) - 1, 0, -1):
        other = below(rng, last + 1)
        order[last], order[other] = order[other], order[last]
    return order


def digits(rng: Random, count: int) -> str:
    """A number of `count` digits, the first not 0."""
    return str(10 ** (count - 1) + below(rng, 9 * 10 ** (count - 1)))


def other_digits(rng: Random, number: str) -> str:
    """A number as long as `number` that differs from it in every digit."""
    changed: list[str] = []
    for place, digit in enumerate(number):
        allowed = "0123456789" if place else "123456789"
        changed.append(pick(rng, allowed.replace(digit, "")))
    return "".join(changed)
