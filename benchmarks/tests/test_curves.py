"""The fit of an exponent, and what a table says of it."""

from __future__ import annotations

import contextlib
import math

import pytest

from benchmarks.rows import Figures
from benchmarks.scaling.command import Sizes, main
from benchmarks.scaling.curves import FLAT, LINEAR, Curve, Goal, exponent_of
from benchmarks.scaling.stored import scans_of
from server.adapters.database.upkeep import EVENTS_A_SEARCH


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


@pytest.mark.parametrize(
    ("name", "size", "scans", "found"),
    [
        ("next due", 1_000, "none", ""),
        ("next due", 1_000, "tryon_sessions: everything", "tryon_sessions: everything"),
        ("cleanup: a part of the events", 10 * EVENTS_A_SEARCH - 1, "tryon_events: everything", ""),
        ("cleanup: a part of the events", 10 * EVENTS_A_SEARCH, "tryon_events: everything", "tryon_events: everything"),
    ],
)
def test_full_scan_is_reported_unless_table_is_small(name: str, size: int, scans: str, found: str) -> None:
    """Any other statement that reads a whole table is noted."""
    assert scans_of(name, size, Figures(1, 1, 1, 1, scans)) == found


@pytest.mark.parametrize("scans", ["", "tryon_sessions: everything"])
async def test_part_fails_when_a_statement_reads_a_whole_table(
    scans: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After its table, and by the name of the statement."""

    async def measured(*_: object) -> list[Curve]:
        return [Curve("PostgreSQL ms: next due", Goal.FLAT, {10: [1.0], 100: [1.0]}, scans)]

    monkeypatch.setattr("benchmarks.scaling.command._measured", measured)
    sizes = Sizes((), (), (), (), clients=0, rate=0, seconds=0, swept=0, submitted=0, few=0)
    expected = pytest.raises(SystemExit, match="next due reads tryon_sessions") if scans else contextlib.nullcontext()
    with expected:
        await main(["rows"], sizes, repeats=1)
    assert "PostgreSQL ms: next due" in capsys.readouterr().out
