"""How sure a mean of scores is.

Scores lie in [0, 1]. Two things are reported: the standard error, sqrt(variance / n), which for
scores of 0 and 1 is the binomial sqrt(p (1 - p) / n); and Wilson's interval (E. B. Wilson, JASA
1927, 22:209), which stays honest where every sample was right or wrong and the standard error is
0. For partial scores the interval is wider than it need be, since their variance is at most
p (1 - p).
"""

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

Z_95 = 1.959963984540054
"""Half-width of the central 95 % of a normal distribution, in standard deviations."""


class Summary(BaseModel):
    """A mean of `n` scores with its uncertainty."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    mean: float
    standard_error: float
    low: float
    """Wilson's interval at 95 %, lower end."""
    high: float


def summarise(scores: Sequence[float]) -> Summary:
    """Mean, standard error and Wilson's interval of at least one score in [0, 1]."""
    mean, error = mean_and_standard_error(scores)
    low, high = wilson_interval(mean, len(scores))
    return Summary(n=len(scores), mean=mean, standard_error=error, low=low, high=high)


def difference(one: Summary, other: Summary) -> tuple[float, float]:
    """`one` minus `other`, and its standard error for samples drawn apart from each other.

    Models that answered the same samples differ by less than that, so it errs on the safe side.
    """
    error = math.hypot(one.standard_error, other.standard_error)
    return one.mean - other.mean, error


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sqrt(variance / n), the variance taken over n: binomial for values of 0 and 1."""
    assert values, "no values"
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return mean, math.sqrt(variance / len(values))


def wilson_interval(proportion: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion seen in `n` samples."""
    assert n > 0
    assert 0.0 <= proportion <= 1.0
    spread = z * z / n
    centre = (proportion + spread / 2) / (1 + spread)
    half = z * math.sqrt(proportion * (1 - proportion) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)
