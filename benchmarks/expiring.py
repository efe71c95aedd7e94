"""Measures how long transitions take while many sessions expire.

Sessions with a photo each have expired: they are ended and removed as in production, by
passes of the reconciler, in this process. Beside it the same event loop makes
transitions at a steady pace, as a web process that has the chore does; each is timed.
Windows with the expiry and without it take turns, so that whatever else this machine
does is in both, and the difference is the expiry's. PostgreSQL commits with ``fsync``.

Where a transition waited stands beside it:

- *turn*: before its first statement, for a connection and, on SQLite, until no one else
  was writing;
- *row locks*: on PostgreSQL, the waits for another transaction's lock that took longer
  than :data:`LOCK_MS`, as the server has logged them;
- *loop*: the longest that this thread computed without serving anyone else.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from server.adapters.database import migrations
from server.adapters.database.changes import Begin, Change
from server.adapters.database.engine import Connections
from server.adapters.database.writing import SessionWriter
from server.config.settings import Config
from server.services import Services, open_services
from server.sessions.transitions import failure
from testkit.crowds import add_expired
from testkit.report import Row, heading, percentile, table
from testkit.running import new_session
from testkit.servers import PostgresServer, ValkeyServer
from tryon.protocol.states import Status

PACE_SECONDS: Final = 0.02
"""Pause between two sessions that are moved on, with two transitions each."""

BEAT_SECONDS: Final = 0.002
"""Pause between two readings of this thread's processor time."""

LOCK_MS: Final = 1
"""Milliseconds after which PostgreSQL logs a wait for a lock."""

_ACQUIRED: Final = re.compile(rb"acquired \w+ on (?:transaction|tuple)")

COLUMNS: Final = (
    *("database", "beside", "seconds", "transitions", "median ms", "p99 ms", "max ms"),
    *("turn p99 ms", "turn max ms", "row locks", "loop ms", "expired/s"),
)


@dataclass(slots=True)
class _Found:
    """The figures of all windows of a kind; times in milliseconds."""

    seconds: float = 0.0
    transitions: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    loops: list[float] = field(default_factory=list)
    row_locks: int = 0
    expired: int = 0

    def figures(self) -> list[float]:
        """Return median, p99 and maximum of a transition; p99 and maximum of a turn."""
        moved, turns = self.transitions, self.turns
        return [median(moved), percentile(moved, 0.99), max(moved), percentile(turns, 0.99), max(turns)]


class _TimedConnections(Connections):
    """The connections of a process, its lock included, with a note of each wait."""

    def __init__(self, shared: Connections) -> None:
        vars(self).update(vars(shared))
        self.waits: list[float] = []

    @contextlib.asynccontextmanager
    async def write(self, *, seconds: float | None = None, grows: bool = False) -> AsyncIterator[AsyncConnection]:
        asked = time.perf_counter()
        async with super().write(seconds=seconds, grows=grows) as connection:
            self.waits.append((time.perf_counter() - asked) * 1000)
            yield connection


async def main(*, sessions: int, seconds: float, databases: Sequence[str]) -> None:
    heading(f"expiry of {sessions} sessions; ms of a transition; windows of {seconds:g} s", {})
    rows: list[Row] = []
    valkey = await asyncio.to_thread(ValkeyServer().start)
    with contextlib.closing(valkey):
        for kind in databases:
            async with _opened(kind, valkey.url) as (services, log):
                alone, beside = await _measured(services, log, sessions, seconds)
                rows += _rows(kind, alone, beside)
    table(COLUMNS, rows)


@contextlib.asynccontextmanager
async def _opened(kind: str, redis_url: str) -> AsyncIterator[tuple[Services, Path | None]]:
    """Open the services; yield them with the path of PostgreSQL's log."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tryon-benchmark-")))
        url = log = None
        if kind == "postgresql":
            options: dict[str, Any] = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB"}
            options |= {"log_lock_waits": "on", "deadlock_timeout": f"{LOCK_MS}ms"}
            server = await asyncio.to_thread(PostgresServer(durable=True, **options).start)
            stack.callback(server.close)
            url, log = server.url("postgres"), server.folder / "log"
        config = Config(
            data_dir=folder / "data", database_url=url, redis_url=redis_url, secret_keys=("benchmark-" * 4,)
        )
        await asyncio.to_thread(migrations.migrate, config)
        async with open_services(config) as services:
            await services.database.clock.synchronize()
            gc.collect()
            gc.freeze()  # as `tryon serve` does when it has loaded everything
            yield services, log


async def _measured(services: Services, log: Path | None, sessions: int, seconds: float) -> tuple[_Found, _Found]:
    """Return the figures of windows without the expiry, and of those with it."""
    await _window(services, log, _Found(), asyncio.create_task(asyncio.sleep(seconds / 2)))  # the first are slow
    keys = await add_expired(services.database, sessions)
    await asyncio.to_thread(_touch, services.config.uploads_dir, keys)
    alone, beside, left = _Found(), _Found(), sessions
    scrubbing = asyncio.create_task(services.reconciling.cleanup.scrub_forever())
    try:
        while left:
            await _window(services, log, alone, asyncio.create_task(asyncio.sleep(seconds)))
            await _window(services, log, beside, asyncio.create_task(_expire_for(services, seconds)))
            now_left = await services.database.due.count_expired(sessions)
            beside.expired += left - now_left
            left = now_left
    finally:
        scrubbing.cancel()
        await asyncio.wait({scrubbing})
    return alone, beside


def _touch(folder: Path, keys: Sequence[str]) -> None:
    for key in keys:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"photo")


async def _expire_for(services: Services, seconds: float) -> None:
    """Run passes for so long or until no session is left; then end the last removal."""
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at and await services.database.due.expired(limit=1):
        await services.reconciling.reconciler.maintain()
    while await services.database.upkeep.delete_old_tombstones():
        await asyncio.sleep(0)
    await services.reconciling.reconciler.stop()


async def _window(services: Services, log: Path | None, found: _Found, work: asyncio.Task[None]) -> None:
    """Make transitions until ``work`` has ended; add their figures to ``found``."""
    connections = _TimedConnections(services.database.connections)
    writer, failed = SessionWriter(connections, clock=services.database.clock), failure("timeout")
    logged, began = log.stat().st_size if log else 0, time.perf_counter()
    beating = asyncio.create_task(_beat(found.loops))
    while not work.done():
        session = await writer.insert(new_session())
        connections.waits.clear()
        for before, outcome in ((Status.CREATED, Begin("worker", 60.0)), (Status.PROCESSING, failed)):
            change = Change(session_id=session.id, outcome=outcome, from_status=before, actor="benchmark")
            started = time.perf_counter()
            moved = await writer.transition(change)
            found.transitions.append((time.perf_counter() - started) * 1000)
            assert moved is not None
        found.turns += connections.waits
        await asyncio.sleep(PACE_SECONDS)
    await work
    beating.cancel()
    await asyncio.wait({beating})
    found.seconds += time.perf_counter() - began
    if log is not None:
        with log.open("rb") as opened:
            opened.seek(logged)
            found.row_locks += len(_ACQUIRED.findall(opened.read()))


async def _beat(found: list[float]) -> None:
    """Note the processor time that this thread uses between two beats of the loop."""
    while True:
        used = time.thread_time()
        await asyncio.sleep(BEAT_SECONDS)
        found.append((time.thread_time() - used) * 1000)


def _rows(kind: str, alone: _Found, beside: _Found) -> list[Row]:
    """Return a line without the expiry, one with it, and their difference."""
    rows: list[Row] = []
    for name, found in (("nothing", alone), ("expiry", beside)):
        locks = found.row_locks if kind == "postgresql" else None
        speed = f"{found.expired / found.seconds:.0f}" if found.expired else None
        rest = (*found.figures(), locks, max(found.loops), speed)
        rows.append((kind, name, f"{found.seconds:.0f}", len(found.transitions), *rest))
    more = [b - a for a, b in zip(alone.figures(), beside.figures(), strict=True)]
    locks = beside.row_locks - alone.row_locks if kind == "postgresql" else None
    rows.append((kind, "difference", None, None, *more, locks, max(beside.loops) - max(alone.loops), None))
    return rows
