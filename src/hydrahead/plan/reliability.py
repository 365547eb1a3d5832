"""How far a ranking of heads would come out the same from other probes.

Probes are split into halves at random, each half gives a score per head, and the halves' rankings
are compared by Spearman's rho. Head scores are zero-inflated: heads that are zero in every probe
tie with each other in both halves, which says nothing of the ranking, so rho over the other heads
is given beside it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hydrahead.core.seeds import numpy_generator

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitHalf:
    """Mean Spearman correlation between halves of the probes; None where it is undefined."""

    overall: float | None
    """Over all heads."""
    non_zero: float | None
    """Over the heads that any probe gives a value other than zero."""


def split_half_reliability(
    per_probe: ArrayLike, *, seed: int = 0, num_splits: int = 100
) -> SplitHalf:
    """Compare the mean values over random halves of the probes.

    It is not corrected for the halved number of probes (Spearman-Brown), so it is a lower bound on
    the reliability of the score that uses them all.

    Args:
        per_probe: [probe, layer, q_head], or any shape whose first axis is the probes.
        seed: of the random halves.
        num_splits: how many splits are averaged.
    """
    values = np.asarray(per_probe, dtype=np.float64)
    values = values.reshape(len(values), -1)
    if len(values) < 2:
        return SplitHalf(overall=None, non_zero=None)
    generator = numpy_generator(seed, "split_half")
    touched = np.any(values != 0, axis=0)
    overall: list[float | None] = []
    non_zero: list[float | None] = []
    for _ in range(num_splits):
        order = generator.permutation(len(values))
        half = len(values) // 2
        first, second = values[order[:half]].mean(axis=0), values[order[half:]].mean(axis=0)
        overall.append(spearman(first, second))
        non_zero.append(spearman(first[touched], second[touched]))
    return SplitHalf(overall=_mean(overall), non_zero=_mean(non_zero))


def spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Rank correlation, equal values sharing their mean rank; None if either side is constant."""
    x, y = (average_ranks(side) for side in (first, second))
    x, y = x - x.mean() if x.size else x, y - y.mean() if y.size else y
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / norm) if norm > 0 else None


def average_ranks(values: ArrayLike) -> Floats:
    """Ranks from 1, flattened; equal values share the mean of the ranks they take up."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
