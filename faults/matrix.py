"""The fault matrix: rows at full length, and the table of their figures.

It shows what clients saw, the worst staleness, and the time to recover.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from faults import form
from faults.outcome import Outcome, Row
from faults.pace import FULL, SCALED, Pace
from faults.rows import (
    clock,
    database,
    deploy,
    disk,
    network_database,
    owner,
    production,
    redis,
    redis_failover,
    storage,
    upstream,
    web,
    webhooks,
    worker,
)
from testkit.profiles import FAULTS
from testkit.report import heading, table

GROUPS: Final = (
    redis.ROWS | redis_failover.ROWS,
    database.ROWS,
    network_database.ROWS,
    disk.ROWS,
    storage.ROWS,
    web.ROWS | owner.ROWS | webhooks.ROWS,
    worker.ROWS | upstream.ROWS,
    clock.ROWS,
    deploy.ROWS,
)
ROWS: Final[dict[str, Row]] = {name: row for group in GROUPS for name, row in group.items()}
PRODUCTION_ROWS: Final[dict[str, Row]] = production.ROWS | {
    name: row for name, row in ROWS.items() if name not in production.EXCUSED
}
"""Rows of the production form: its own, and all others that apply."""


def choose(rows: Mapping[str, Row], only: Sequence[str]) -> dict[str, Row]:
    """Return the rows with these names, or beginnings of names; none: all."""
    chosen = {name: row for name, row in rows.items() if not only or any(map(name.startswith, only))}
    if exact := [name for name in only if name in rows]:
        chosen = {name: row for name, row in chosen.items() if name in exact or not name.startswith(tuple(exact))}
    return chosen


async def main(*, only: Sequence[str], seeds: int, scaled: bool, balancer: str | None = None) -> bool:
    """Run rows and print the table; return whether every promise was kept.

    ``only``: names, or beginnings of names; none: all. ``balancer``: the rows of the
    production form, behind this proxy.
    """
    pace = SCALED if scaled else FULL
    settings: dict[str, Any] = FAULTS | pace.settings | {"processor": "testkit.paced:Paced"}
    length = "scaled down" if scaled else "full length"
    if balancer is None:
        chosen = choose(ROWS, only)
        heading(f"faults: {len(chosen)} rows, {seeds} seeds, {length}", settings)
        return await _run(chosen, pace, seeds)
    chosen = choose(PRODUCTION_ROWS, only)
    heading(f"faults: {len(chosen)} rows in production behind {balancer}, {seeds} seeds, {length}", settings)
    with form.production(balancer):
        return await _run(chosen, pace, seeds)


async def _run(chosen: Mapping[str, Row], pace: Pace, seeds: int) -> bool:
    """Run rows and print their table; return whether every promise was kept."""
    lines: list[list[str | float | int | None]] = []
    kept = True
    for name, row in chosen.items():
        outcomes: list[Outcome] = []
        for seed in range(1, seeds + 1):
            began = time.monotonic()
            outcome = await row.run(dataclasses.replace(pace, seed=seed))
            outcomes.append(outcome)
            print(f"{name} seed {seed} ({time.monotonic() - began:.0f} s): {outcome.summary()}", file=sys.stderr)
            for problem in outcome.wrong:
                print(f"{name} seed {seed} BROKEN: {problem}", file=sys.stderr)
        broken = sum(bool(outcome.wrong) for outcome in outcomes)
        kept = kept and not broken
        stale = [outcome.stale_seconds for outcome in outcomes]
        recovery = [outcome.recovery_seconds for outcome in outcomes if outcome.recovery_seconds is not None]
        lines.append(
            [
                name,
                *(_figures(stale) if any(stale) else (None, None)),
                *(_figures(recovery) if recovery else (None, None)),
                sum(outcome.cut for outcome in outcomes),
                sum(outcome.sessions for outcome in outcomes),
                f"{broken} of {seeds}" if broken else "kept",
            ]
        )
    columns = ("fault", "stale s", "worst", "recovery s", "worst", "streams cut", "sessions", "promise")
    table(columns, lines)
    print(
        "stale, recovery: median and worst of the seeds; seconds from a commit to the stalest client's sight of it, and"
    )
    print(
        "from the end of the fault until every accepted session is claimed or has ended. The fault of each row: --list"
    )
    return kept


def _figures(values: Sequence[float]) -> tuple[float, float]:
    return median(values), max(values)


def listing(*, in_production: bool = False) -> str:
    """Return the names of all rows and their faults, a line for each."""
    rows = PRODUCTION_ROWS if in_production else ROWS
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {row.fault}" for name, row in rows.items())
