"""The statements that recur, beside very many sessions on PostgreSQL.

The tables are filled by the server itself (``generate_series``), on a connection each,
without ``fsync``, its log and their indexes, which are made afterwards. Sessions are
those of a day: ten of an owner, nearly all of them completed, a thousand that wait,
run, are due or have expired. Each statement is timed from this process, and its plan
searched for scans of a whole table.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import asyncpg

from server.adapters.database import migrations, upkeep
from server.adapters.database.database import Database, open_database
from server.config.database_settings import DatabaseSettings
from server.config.settings import Config
from server.domain.allowance import Allowance
from server.system.clock import SystemClock
from testkit.crowds import numbered_id
from testkit.plans import explained
from testkit.report import heading, table
from testkit.running import new_session
from testkit.servers import PostgresServer

CHUNK_ROWS: Final = 500_000
"""Rows of a statement while the tables are filled."""

FILL_SECONDS: Final = 3600
"""Bound on one statement that fills the tables, or makes an index."""

NO_SCANS: Final = "none"
"""Figures of a statement that reads no whole table."""

FEW: Final = 1000
"""Sessions of each rare kind, unless there are to be fewer."""

_OWNER: Final = "md5(({n} / 10)::text) || md5(({n} / 10)::text)"
_STATUS: Final = "CASE WHEN n <= $4 THEN 'created' WHEN n <= 3 * $4 THEN 'processing' ELSE 'completed' END"
_SESSIONS: Final = f"""
INSERT INTO tryon_sessions (id, owner, status, seq, attempt, burnt, enqueues, lease_owner, lease_expires_at,
    cancel_requested, processor, params, error_retryable, created_at, updated_at, finished_at, deadline_at, expires_at,
    stored_bytes, address_hash)
SELECT lpad(to_hex(n), 32, '0')::uuid, {_OWNER.format(n="n")}, {_STATUS}, 3, 1, 0, 1,
    CASE WHEN n > $4 AND n <= 3 * $4 THEN 'worker' END,
    CASE WHEN n > $4 AND n <= 2 * $4 THEN now() + interval '12 hours'
         WHEN n > 2 * $4 AND n <= 3 * $4 THEN now() - interval '1 minute' END,
    false, 'mock', '{{}}', false, made, made, CASE WHEN n > 3 * $4 THEN made END, made + interval '2 days',
    CASE WHEN n > 3 * $4 AND n <= 4 * $4 THEN now() - interval '1 minute' ELSE made + interval '1 day' END,
    200000, left(md5((n / 30)::text), 32)
FROM (SELECT n, now() - interval '20 hours' * (1 - n::float / $3::bigint) AS made
      FROM generate_series($1::bigint, $2::bigint) AS n) AS numbers
"""
_EVENTS: Final = """
INSERT INTO tryon_events (xact, session_id, seq, event, status, at, attempt, actor, data)
SELECT pg_current_xact_id()::text::bigint, lpad(to_hex(n), 32, '0')::uuid, 1, 'created', 'created', now(), 0, 'client', '{}'
FROM generate_series($1::bigint, $2::bigint) AS n
"""
_FILES: Final = """
INSERT INTO tryon_files (session_id, direction, position, role, "index", key, type, bytes, sha256, width, height)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'input', 0, 'person', 0, 'inputs/' || lpad(to_hex(n), 32, '0') || '-person-0.jpg',
    'image/jpeg', 200000, '', 768, 1024
FROM generate_series($1::bigint, $2::bigint) AS n
"""
_FILLED: Final = (_SESSIONS, _EVENTS, _FILES)
_BYTES: Final = """
SELECT relname AS name, pg_total_relation_size(oid) AS bytes FROM pg_class
WHERE relkind = 'r' AND relname IN ('tryon_sessions', 'tryon_events', 'tryon_files') ORDER BY name
"""
_INDEXES: Final = """
SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename IN
    ('tryon_sessions', 'tryon_events', 'tryon_files') AND indexname LIKE 'ix_%'
"""


COLUMNS: Final = ("statements of", "in PostgreSQL ms", "median", "from here ms", "median", "whole tables read")


async def main(*, rows: int, rounds: int) -> None:
    heading(f"statements beside {rows} sessions on PostgreSQL; {rounds} rounds", {})
    async with growing_tables() as tables:
        started = time.perf_counter()
        await tables.grow(rows)
        print(f"# filled in {time.perf_counter() - started:.0f} s", flush=True)
        print(f"# bytes, indexes included: {await tables.row_bytes()}", flush=True)
        found = [(name, *figures) for name, figures in (await tables.measured(rounds)).items()]
    table(COLUMNS, found)


class Figures(NamedTuple):
    """Milliseconds of a statement, and the scans of whole tables in its plan."""

    least: float
    """In PostgreSQL."""
    median: float
    caller_least: float
    """Milliseconds of a statement as its caller sees them."""
    caller_median: float
    scans: str


class Tables:
    """The tables of sessions, events and files, which grow by whole statements.

    ``few``: sessions of each rare kind; they are the first ones.
    """

    def __init__(self, server: PostgresServer, few: int) -> None:
        self._server = server
        self._few = few
        self._rows = 0
        self._removed = 5 * few

    def __repr__(self) -> str:
        return f"<Tables rows={self._rows}>"

    async def grow(self, rows: int) -> None:
        """Insert sessions up to this number, then renew the planner's statistics."""
        connections = [await asyncpg.connect(self._server.url("postgres", "postgresql")) for _ in _FILLED]
        try:
            indexes = [each["indexdef"] for each in await connections[0].fetch(_INDEXES)]
            for name in await connections[0].fetch(_INDEXES):
                await connections[0].execute(f"DROP INDEX {name['indexname']}")
            inserts = zip(connections, _FILLED, strict=True)
            await asyncio.gather(*(self._insert(each, statement, rows) for each, statement in inserts))
            await asyncio.gather(
                *(_run_all(each, indexes[n :: len(connections)]) for n, each in enumerate(connections))
            )
            await connections[0].execute("VACUUM ANALYZE")
        finally:
            for each in connections:
                await each.close()
        self._rows = rows

    async def _insert(self, connection: asyncpg.Connection, statement: str, rows: int) -> None:
        for first in range(self._rows + 1, rows + 1, CHUNK_ROWS):
            last = min(rows, first + CHUNK_ROWS - 1)
            more = (rows, self._few) if statement is _SESSIONS else ()
            await connection.execute(statement, first, last, *more, timeout=FILL_SECONDS)

    async def measured(self, rounds: int) -> dict[str, Figures]:
        """Run each statement so often; return its figures by its name."""
        async with _opened(self._server.url("postgres")) as database:
            calls = _calls(database, self._rows, self._few, self._some_ids)
            return {name: await _measured(database, call, rounds) for name, call in calls.items()}

    async def row_bytes(self) -> str:
        """Return what a row of each table takes, indexes included."""
        connection = await asyncpg.connect(self._server.url("postgres", "postgresql"))
        try:
            found = await connection.fetch(_BYTES)
        finally:
            await connection.close()
        return ", ".join(f"{each['bytes'] / self._rows:.0f} a row of {each['name']}" for each in found)

    def _some_ids(self, count: int) -> list[str]:
        """Return the next sessions that are to be removed: completed ones."""
        first, self._removed = self._removed, self._removed + count
        return [numbered_id(n) for n in range(first, first + count)]


async def _run_all(connection: asyncpg.Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        await connection.execute(statement, timeout=FILL_SECONDS)


@contextlib.asynccontextmanager
async def growing_tables(few: int = FEW) -> AsyncIterator[Tables]:
    """Run a PostgreSQL with empty tables, which are written past its log."""
    options: dict[str, Any] = {"shared_buffers": "1GB", "maintenance_work_mem": "512MB", "max_wal_size": "8GB"}
    server = await asyncio.to_thread(PostgresServer(**options, wal_level="minimal", max_wal_senders="0").start)
    with contextlib.closing(server), tempfile.TemporaryDirectory(prefix="tryon-benchmark-") as folder:
        config = Config(data_dir=Path(folder), database_url=server.url("postgres"))
        await asyncio.to_thread(migrations.migrate, config)
        connection = await asyncpg.connect(server.url("postgres", "postgresql"))
        try:
            for name in ("tryon_files", "tryon_events", "tryon_sessions"):
                await connection.execute(f"ALTER TABLE {name} SET UNLOGGED")
        finally:
            await connection.close()
        yield Tables(server, few)


@contextlib.asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    patient = DatabaseSettings(database_statement_seconds=60, database_lock_seconds=60)
    database = open_database(url, clock=SystemClock(), settings=patient)
    try:
        await database.clock.synchronize()
        yield database
    finally:
        await database.close()


def _calls(
    database: Database, rows: int, few: int, some_ids: Callable[[int], list[str]]
) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return what is measured: what recurs by the clock, and what clients ask for."""
    due, read, write = database.due, database.reader, database.writer
    owner = "c4ca4238a0b923820dcc509a6f75849b" * 2  # of the sessions 10 to 19
    ids = [numbered_id(n) for n in range(rows // 2, rows // 2 + 500)]

    async def claimed_and_renewed() -> None:
        session = await write.insert(new_session())
        assert await write.claim(session.id, worker="w", lease_seconds=60, actor="w") is not None
        assert await write.renew(session.id, attempt=1, lease_seconds=60) is False

    async def erased() -> None:
        await write.erase(some_ids(few // 10), skip_locked=True)

    return {
        "list of an owner": lambda: read.of_owner(owner, limit=20, before=None),
        "a session with its events": lambda: read.with_events(ids[0], 0),
        "upload, with its owner's usage": lambda: write.insert(
            new_session(owner=owner, address_hash="x", allowance=Allowance(owner_bytes=2**40))
        ),
        "upload, claim and renewal": claimed_and_renewed,
        "due: leases and deadlines": due.due,
        "next due": due.next_due,
        "expired, a page": lambda: due.expired(limit=200),
        f"removal of {few // 10}": erased,
        "long waiting": lambda: due.long_waiting(seconds=5),
        "count of waiting": read.count_waiting,
        "waiting by processor": due.waiting_for,
        "cleanup: rows of 500 files": lambda: read.ids_among(ids),
        "cleanup: a part of the events": lambda: _part(database),
        "cleanup: old tombstones": database.upkeep.delete_old_tombstones,
        "cleanup: overdue upstream": database.cleanups.remove_overdue,
        "webhooks that are due": lambda: database.deliveries.due(limit=200),
    }


async def _part(database: Database) -> None:
    """Search one part of the events for strays, of which there are none."""
    await database.upkeep._stray_events(0, upkeep.EVENTS_A_SEARCH)


async def _measured(database: Database, call: Callable[[], Awaitable[object]], rounds: int) -> Figures:
    inside, outside = [], []
    found = await explained(database, call)
    for _ in range(rounds):
        started = time.perf_counter()
        await call()
        outside.append((time.perf_counter() - started) * 1000)
        inside.append((await explained(database, call)).milliseconds)
    return Figures(min(inside), median(inside), min(outside), median(outside), ", ".join(found.scans) or NO_SCANS)
