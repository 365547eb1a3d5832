"""Means and their uncertainty against values worked out by hand."""

import math
import random

import pytest

from hydrahead.evaluation.statistics import (
    difference,
    mean_and_standard_error,
    summarise,
    wilson_interval,
)


def test_standard_error_of_right_and_wrong_is_binomial():
    # 8 of 10: sqrt(0.8 * 0.2 / 10) = sqrt(0.016)
    mean, error = mean_and_standard_error([1.0] * 8 + [0.0] * 2)
    assert mean == pytest.approx(0.8)
    assert error == pytest.approx(0.12649110640673517)


def test_standard_error_of_partial_scores():
    # mean 0.5, deviations (-1/2, 0, 1/2): variance 1/6, error sqrt(1/18)
    mean, error = mean_and_standard_error([0.0, 0.5, 1.0])
    assert (mean, error) == pytest.approx((0.5, math.sqrt(1 / 18)))


def test_wilson_interval_worked_by_hand():
    # z = 2, p = 1/2, n = 4: centre (0.5 + 0.5) / 2 = 0.5, half 2 sqrt(1/16 + 1/16) / 2 = sqrt(1/8)
    assert wilson_interval(0.5, 4, z=2.0) == pytest.approx(
        (0.5 - math.sqrt(0.125), 0.5 + math.sqrt(0.125))
    )
    # All 16 right with z = 2: 1 / (1 + 4/16) = 0.8
    assert wilson_interval(1.0, 16, z=2.0) == pytest.approx((0.8, 1.0))
    assert wilson_interval(0.0, 16, z=2.0) == pytest.approx((0.0, 0.2))


def test_wilson_interval_at_95_percent_has_the_textbook_value():
    # 8 of 10 at 95 %: 0.4902 to 0.9433 in the usual tables
    assert wilson_interval(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-5)


def test_wilson_interval_covers_the_truth_about_as_often_as_it_says():
    rng = random.Random(1)
    inside = 0
    for _ in range(2000):
        right = sum(rng.random() < 0.9 for _ in range(40))
        low, high = wilson_interval(right / 40, 40)
        inside += low <= 0.9 <= high
    assert 0.93 < inside / 2000 < 0.975


def test_summary_keeps_certainty_apart_from_a_zero_error():
    summary = summarise([1.0] * 25)
    assert (summary.n, summary.mean, summary.standard_error) == (25, 1.0, 0.0)
    assert summary.low == pytest.approx(0.8668, abs=1e-4)
    assert summary.high == pytest.approx(1.0)


def test_difference_adds_errors_in_quadrature():
    one, other = summarise([1.0] * 8 + [0.0] * 2), summarise([1.0] * 5 + [0.0] * 5)
    gap, error = difference(one, other)
    assert gap == pytest.approx(0.3)
    assert error == pytest.approx(math.sqrt(0.016 + 0.025))
