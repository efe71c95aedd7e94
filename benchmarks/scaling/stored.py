"""The statements that recur against the number of stored sessions, on PostgreSQL.

The tables grow through all sizes; what is due, waits or has expired stays as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.rows import NO_SCANS, Figures, growing_tables
from benchmarks.scaling.curves import Curve, Goal
from server.adapters.database.upkeep import EVENTS_A_SEARCH

GROWING: Final = {"cleanup: a part of the events"}
"""Statements that read more until they read a whole part of a large table."""


async def measure(*, rows: Sequence[int], few: int, rounds: int) -> list[Curve]:
    """Measure each statement at each size: milliseconds in PostgreSQL.

    ``few``: sessions of each rare kind; the smallest size needs ten times as many.
    Scans of whole tables at the largest size are noted at their curves.
    """
    curves: dict[str, Curve] = {}
    async with growing_tables(few) as tables:
        for size in sorted(rows):
            await tables.grow(size)
            for name, figures in (await tables.measured(rounds)).items():
                goal = Goal.LINEAR if name in GROWING else Goal.FLAT
                curve = curves.setdefault(name, Curve(f"PostgreSQL ms: {name}", goal))
                curve.add(size, figures.median)
                curve.scans = scans_of(name, size, figures)
            print(f"# {size:,} sessions measured", flush=True)
    return list(curves.values())


def scans_of(name: str, size: int, figures: Figures) -> str:
    """Return the whole tables that a statement reads and should not; empty if none.

    One that reads a part of a table may read all of one that is not ten times as large.
    """
    allowed = figures.scans == NO_SCANS or (name in GROWING and size < 10 * EVENTS_A_SEARCH)
    return "" if allowed else figures.scans
