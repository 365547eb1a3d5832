"""How far the whole scoring would come out the same from other pairs.

`plan.reliability` compares plain means over probes; a score with kappa and min-max in it is not a
mean. Here the pairs of every sub-probe are split into random halves, each half goes through the
whole scoring, and the two scores are compared by Spearman's rho over all heads, and over those with
any effect at all (heads that are zero in every pair tie in both halves, which says nothing of the
ranking).
"""

from collections.abc import Callable, Sequence

import numpy as np

from hydrahead.core.seeds import numpy_generator
from hydrahead.plan.reliability import SplitHalf, spearman

NUM_SPLITS = 20

Array = np.ndarray
Selection = list[list[int]]
"""For every sub-probe the numbers of the pairs to score from."""


def split_half(
    items: Sequence[Sequence[int]], score: Callable[[Selection], Array], *, seed: int
) -> SplitHalf:
    """Mean rank correlation over random halves, not corrected to full length.

    Args:
        items: for every sub-probe the numbers of its pairs. One with a single pair counts in both
            halves, for leaving it out would change what is scored.
        score: scores from such a selection.
        seed: of the halves.
    """
    if all(len(group) < 2 for group in items):
        return SplitHalf(overall=None, non_zero=None)
    generator = numpy_generator(seed, "scoring", "split_half")
    touched = score([list(group) for group in items]).ravel() != 0
    overall: list[float] = []
    non_zero: list[float] = []
    for _ in range(NUM_SPLITS):
        first, second = (score(half).ravel() for half in _halves(items, generator))
        _note(overall, spearman(first, second))
        _note(non_zero, spearman(first[touched], second[touched]))
    return SplitHalf(overall=_mean(overall), non_zero=_mean(non_zero))


def _halves(
    items: Sequence[Sequence[int]], generator: np.random.Generator
) -> tuple[Selection, Selection]:
    first: Selection = []
    second: Selection = []
    # Odd groups give their extra pair to either half in turn, so that the halves stay even overall.
    for place, group in enumerate(items):
        order = [group[i] for i in generator.permutation(len(group))]
        cut = (len(order) + place % 2) // 2
        first.append(order[:cut] if len(order) > 1 else order)
        second.append(order[cut:] if len(order) > 1 else order)
    return first, second


def _note(values: list[float], value: float | None) -> None:
    if value is not None:
        values.append(value)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
