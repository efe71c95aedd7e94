"""The statements that recur against the number of stored sessions, on PostgreSQL.

The tables grow through all sizes; what is due, waits or has expired stays as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.rows import growing_tables
from benchmarks.scaling.curves import Curve, Goal

GROWING: Final = {"cleanup: a part of the events"}
"""Statements that read more until they read a whole part of a large table."""


async def measure(*, rows: Sequence[int], few: int, rounds: int) -> list[Curve]:
    """Measure each statement at each size: milliseconds in PostgreSQL.

    ``few``: sessions of each rare kind; the smallest size needs ten times as many.
    """
    curves: dict[str, Curve] = {}
    async with growing_tables(few) as tables:
        for size in sorted(rows):
            await tables.grow(size)
            for name, figures in (await tables.measured(rounds)).items():
                goal = Goal.LINEAR if name in GROWING else Goal.FLAT
                curves.setdefault(name, Curve(f"PostgreSQL ms: {name}", goal)).add(size, figures.median)
            print(f"# {size:,} sessions measured", flush=True)
    return list(curves.values())
