"""The fit of an exponent, and what a table says of it."""

from __future__ import annotations

import math

import pytest

from benchmarks.scaling.curves import FLAT, LINEAR, Curve, Goal, exponent_of


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 0.7, 1.0, 2.0])
def test_exponent_of_a_power_law_is_found(exponent: float) -> None:
    """Whatever its factor."""
    points = {size: 7.5 * size**exponent for size in (10, 100, 1000, 10_000)}
    assert exponent_of(points) == pytest.approx(exponent)


def test_exponent_is_the_least_squares_slope() -> None:
    """Worked by hand: three sizes a factor of e apart, logarithms 0, 1 and 1."""
    points = {1: 1.0, 10: 10.0, 100: 10.0}
    assert exponent_of(points) == pytest.approx(0.5)


def test_exponent_is_unknown_with_one_size() -> None:
    """A value at or below zero is no point."""
    assert math.isnan(exponent_of({10: 1.0, 100: 0.0, 1000: -1.0}))


def test_curve_takes_the_median_of_its_repeats() -> None:
    """One slow repeat moves nothing."""
    curve = Curve("CPU us", Goal.FLAT)
    for size in (10, 100):
        for value in (2.0, 900.0, 1.0):
            curve.add(size, value)
    assert curve.medians == {10: 2.0, 100: 2.0}
    assert curve.row() == ("CPU us", 2.0, 2.0, "0.00", "0.00", "0")


def test_last_step_shows_a_bend() -> None:
    """A cost that begins to grow with the size at the end."""
    curve = Curve("CPU us", Goal.FLAT, {10: [5.0], 100: [5.0], 1000: [50.0]})
    assert curve.row()[-3:] == ("0.50", "1.00", "0, missed")


@pytest.mark.parametrize(
    ("goal", "exponent", "verdict"),
    [
        (Goal.FLAT, FLAT - 0.01, "0"),
        (Goal.FLAT, FLAT + 0.01, "0, missed"),
        (Goal.LINEAR, LINEAR - 0.01, "<= 1.05"),
        (Goal.LINEAR, LINEAR + 0.01, "<= 1.05, missed"),
    ],
)
def test_curve_says_when_it_misses_its_goal(goal: Goal, exponent: float, verdict: str) -> None:
    """In the last column."""
    curve = Curve("CPU us", goal, {size: [size**exponent] for size in (10, 1000)})
    assert curve.row()[-1] == verdict
