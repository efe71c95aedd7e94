"""The reads that recur every few seconds, beside many living sessions.

Both databases are filled with sessions of which none is due, half of them unfinished.
Each read should cost the same as on an empty database. The last table is the sweep of a
web process while a transaction is open in another database of the same PostgreSQL
cluster: an event should be read once, not at each sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

import asyncpg

from server.adapters.database import migrations
from server.adapters.database.database import Database, open_database
from server.config.settings import Config
from server.system.clock import SystemClock
from testkit.crowds import add_events, add_sessions
from testkit.report import heading, table
from testkit.servers import PostgresServer
from tryon.protocol.states import Status

SWEEPS: Final = 5


async def main(*, living: int, waiting: int, running: int, rounds: int, events: int) -> None:
    heading(f"chores: {living} living sessions, {waiting} of them waiting, {running} running; {rounds} rounds", {})
    counts = {
        Status.COMPLETED: living - waiting - running,
        Status.CREATED: waiting,
        Status.PROCESSING: running,
    }
    with tempfile.TemporaryDirectory(prefix="tryon-benchmark-") as folder:
        async with _opened(f"sqlite+aiosqlite:///{folder}/tryon.sqlite3", folder) as database:
            await add_sessions(database, counts)
            sqlite = await _times(database, rounds)
        server = await asyncio.to_thread(PostgresServer().start)
        with contextlib.closing(server):
            async with _opened(server.url("postgres"), folder) as database:
                await add_sessions(database, counts)
                postgresql = await _times(database, rounds)
                rows = await _sweeps(database, server, events)
    table(
        ("median ms of", "SQLite", "PostgreSQL"),
        [(name, sqlite[name], postgresql[name]) for name in sqlite],
    )
    table(
        (f"{events} events, then sweeps beside a foreign transaction", *(f"{n + 1}." for n in range(SWEEPS))),
        [("events read", *rows)],
    )


@contextlib.asynccontextmanager
async def _opened(url: str, folder: str) -> AsyncIterator[Database]:
    await asyncio.to_thread(migrations.migrate, Config(data_dir=Path(folder), database_url=url))
    database = open_database(url, clock=SystemClock())
    try:
        yield database
    finally:
        await database.close()


async def _times(database: Database, rounds: int) -> dict[str, float]:
    """Return the median duration of each read, in milliseconds."""
    now = datetime.now(UTC)
    cursor = await database.feed.cursor()
    reads: dict[str, Callable[[], Awaitable[object]]] = {
        "due": database.due.due,
        "expired": lambda: database.due.expired(limit=1000),
        "next_due": lambda: database.due.next_due(now),
        "long_waiting": lambda: database.due.long_waiting(seconds=5),
        "count_waiting": database.reader.count_waiting,
        "sweep without news": lambda: database.feed.page(cursor),
        "delete_old_tombstones": database.upkeep.delete_old_tombstones,
        "delete_stray_events": database.upkeep.delete_stray_events,
        "an empty read": database.reader.check,
    }
    return {name: await _median_ms(read, rounds) for name, read in reads.items()}


async def _median_ms(read: Callable[[], Awaitable[object]], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        await read()
        found.append((time.perf_counter() - started) * 1000)
    return median(found)


async def _sweeps(database: Database, server: PostgresServer, events: int) -> list[int]:
    """Return the number of events that each of some sweeps reads."""
    connection = await asyncpg.connect(server.url("template1", "postgresql"))
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_current_xact_id()")
            cursor = await database.feed.cursor()
            for n in range(0, events, 10):
                await add_events(database, first=10**9 + n, count=10)
            rows = []
            for _ in range(SWEEPS):
                page = await database.feed.page(cursor)
                cursor = page.cursor
                rows.append(len(page.events))
            return rows
    finally:
        await connection.close()
