"""The fault matrix: rows at full length, and the table of their figures.

It shows what clients saw, the worst staleness, and the time to recover.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

from faults.outcome import Outcome, Row
from faults.pace import FULL, SCALED
from faults.rows import clock, database, deploy, disk, network_database, redis, storage, upstream, web, webhooks, worker
from testkit.profiles import FAULTS
from testkit.report import heading, table

GROUPS: Final = (
    redis.ROWS,
    database.ROWS,
    network_database.ROWS,
    disk.ROWS,
    storage.ROWS,
    web.ROWS | webhooks.ROWS,
    worker.ROWS | upstream.ROWS,
    clock.ROWS,
    deploy.ROWS,
)
ROWS: Final[dict[str, Row]] = {name: row for group in GROUPS for name, row in group.items()}


async def main(*, only: Sequence[str], seeds: int, scaled: bool) -> bool:
    """Run rows and print the table; return whether every promise was kept.

    ``only``: names, or beginnings of names; none: all.
    """
    chosen = {name: row for name, row in ROWS.items() if not only or any(map(name.startswith, only))}
    if exact := [name for name in only if name in ROWS]:
        chosen = {name: row for name, row in chosen.items() if name in exact or not name.startswith(tuple(exact))}
    pace = SCALED if scaled else FULL
    settings: dict[str, Any] = FAULTS | pace.settings | {"processor": "testkit.paced:Paced"}
    heading(f"faults: {len(chosen)} rows, {seeds} seeds, {'scaled down' if scaled else 'full length'}", settings)
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


def listing() -> str:
    width = max(map(len, ROWS))
    return "\n".join(f"{name:{width}}  {row.fault}" for name, row in ROWS.items())
