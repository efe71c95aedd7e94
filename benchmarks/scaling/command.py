"""``python -m benchmarks scaling``: all curves, or those of one part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.scaling import processes, queued, sockets, stored
from benchmarks.scaling.curves import Curve, columns, rows_of
from server.system.processes import raise_file_limit
from testkit.report import heading, table

PARTS: Final = ("processes", "sockets", "queued", "rows")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large each part is measured."""

    processes: Sequence[int]
    sockets: Sequence[int]
    queued: Sequence[int]
    rows: Sequence[int]
    clients: int
    """Clients of each process while their number grows."""
    rate: float
    """Frames a second: of each process, and of all sockets."""
    seconds: float
    """Length of each measurement of frames, and time between two pings."""
    swept: int
    """Transitions that are committed at once, for all processes to read."""
    submitted: int
    """Sessions that are submitted, and picked up, at each length of the queue."""
    few: int
    """Stored sessions that are due, wait or have expired."""


async def main(parts: Sequence[str], sizes: Sizes, *, repeats: int) -> None:
    """Measure parts one after the other; print a table of each.

    Exits with 1 if a statement reads a whole table beside the most rows.
    """
    scans: list[str] = []
    raise_file_limit()
    heading(f"scaling of {', '.join(parts)}; medians of {repeats} repeats", {})
    for part in parts:
        started = time.perf_counter()
        curves = await _measured(part, sizes, repeats)
        table(columns(part, list(curves[0].repeats)), rows_of(curves))
        print(f"# {part}: {time.perf_counter() - started:.0f} s", flush=True)
        scans += [f"{curve.cost} reads {curve.scans}" for curve in curves if curve.scans]
    if scans:
        raise SystemExit("\n".join(["whole tables are read:", *scans]))


async def _measured(part: str, sizes: Sizes, repeats: int) -> list[Curve]:
    if part == "processes":
        return await processes.measure(
            processes=sizes.processes,
            clients=sizes.clients,
            rate=sizes.rate,
            seconds=sizes.seconds,
            events=sizes.swept,
            repeats=repeats,
        )
    if part == "sockets":
        return await sockets.measure(sockets=sizes.sockets, rate=sizes.rate, seconds=sizes.seconds, repeats=repeats)
    if part == "queued":
        return await queued.measure(queued=sizes.queued, sessions=sizes.submitted, repeats=repeats)
    return await stored.measure(rows=sizes.rows, few=sizes.few, rounds=repeats)
