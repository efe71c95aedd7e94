"""A measured cost at growing sizes, and the exponent of its growth.

A cost that grows as ``size ** e`` is a straight line of slope ``e`` on log-log axes.
The line is fitted by least squares to the medians of the repeats. The slope of
the last step alone shows a bend that the line hides, and shows noise, too.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, log
from statistics import fmean, median
from typing import Final

from testkit.report import Row

LINEAR: Final = 1.05
"""Largest exponent of a cost that may grow with the size."""

FLAT: Final = 0.1
"""Largest exponent of a cost that should not grow: a quarter more for ten times.

The height of an index and what fits in a processor's cache grow a little by themselves.
"""


class Goal(enum.Enum):
    """How a cost may grow: with the size, or not at all."""

    LINEAR = f"<= {LINEAR:g}"
    FLAT = "0"

    def met_by(self, exponent: float) -> bool:
        """Return whether a curve of this exponent meets the goal."""
        return exponent <= (LINEAR if self is Goal.LINEAR else FLAT)


@dataclass(slots=True)
class Curve:
    """The measurements of one cost, at each size, in each repeat."""

    cost: str
    """The name of the cost, with its unit."""
    goal: Goal
    repeats: dict[int, list[float]] = field(default_factory=dict)
    scans: str = ""
    """Whole tables that a statement reads at the largest size, which is a failure."""

    def add(self, size: int, value: float) -> None:
        """Add what one repeat found at a size."""
        self.repeats.setdefault(size, []).append(value)

    @property
    def medians(self) -> dict[int, float]:
        """Return the median of the repeats at each size."""
        return {size: median(values) for size, values in sorted(self.repeats.items())}

    @property
    def exponent(self) -> float:
        """Return the exponent of the growth of the medians."""
        return exponent_of(self.medians)

    def row(self) -> Row:
        """Return the line of a table: cost, medians, exponent, last step, goal."""
        found, last = self.exponent, exponent_of(dict(list(self.medians.items())[-2:]))
        verdict = self.goal.value if isnan(found) or self.goal.met_by(found) else f"{self.goal.value}, missed"
        return (self.cost, *self.medians.values(), f"{found:.2f}", f"{last:.2f}", verdict)


def exponent_of(points: Mapping[int, float]) -> float:
    """Return the slope of the line through (log size, log value) by least squares.

    Values at or below zero have no logarithm and are left out; with fewer than two
    sizes the slope is not a number.
    """
    found = [(log(size), log(value)) for size, value in points.items() if value > 0]
    if len(found) < 2:
        return float("nan")
    mean_size, mean_value = fmean(x for x, _ in found), fmean(y for _, y in found)
    spread = sum((x - mean_size) ** 2 for x, _ in found)
    return sum((x - mean_size) * (y - mean_value) for x, y in found) / spread


def rows_of(curves: Iterable[Curve]) -> list[Row]:
    """Return the lines of a table of curves that share their sizes."""
    return [curve.row() for curve in curves]


def columns(size: str, sizes: Sequence[int]) -> list[str]:
    """Return the head of that table: ``size`` says what the numbers count."""
    return [size, *(f"{each:,}" for each in sorted(sizes)), "exponent", "last step", "goal"]
