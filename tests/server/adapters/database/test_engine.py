"""Connections to a database that is down, locked, cut off or slow."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
import time
import traceback
from pathlib import Path

import asyncpg
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import event, text

from server.adapters.database.database import Database
from server.adapters.database.errors import Taken
from testkit.running import new_session
from testkit.servers import PostgresServer
from tests.server.adapters.database.steps import brought_to, change, opened
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Event, Status


async def test_unopenable_sqlite_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "not a folder").touch()
    async with opened(f"sqlite+aiosqlite:///{tmp_path}/not a folder/x.sqlite3") as database:
        for call in (
            database.reader.check(),
            database.writer.insert(new_session()),
            database.reader.get(new_session().id),
            database.feed.cursor(),
        ):
            with pytest.raises(Unavailable):
                await call


async def test_locked_sqlite_file_is_unavailable(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the write lock for more than BUSY_SECONDS; reads go on."""
    monkeypatch.setattr("server.adapters.database.engine.BUSY_SECONDS", 0.05)
    async with opened(sqlite_url) as database:
        session = await database.writer.insert(new_session())
        with contextlib.closing(
            sqlite3.connect(sqlite_url.partition(":///")[2], timeout=60, isolation_level=None)
        ) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable):
                await database.writer.insert(new_session())
            assert await database.reader.get(session.id) == session, "readers never wait for the writer"
            other.execute("ROLLBACK")
        await database.writer.insert(new_session())


async def test_length_of_a_turn_is_known_on_sqlite(database: Database) -> None:
    """From the lock to the commit, without the wait for it; 0 where rows are locked."""
    connections, statement = database.connections, text("DELETE FROM tryon_leases")
    asked = asyncio.Event()

    async def write() -> tuple[float, float]:
        began = time.perf_counter()
        asked.set()
        async with connections.write() as connection:
            await connection.execute(statement)
        return connections.turn_seconds, time.perf_counter() - began

    async with connections.write() as connection:
        waiting = asyncio.create_task(write())
        await asked.wait()
        began = time.perf_counter()
        for _ in range(20):
            await connection.execute(statement)
        held = time.perf_counter() - began
    first = connections.turn_seconds
    second, seconds = await waiting
    if connections.sqlite:
        assert first >= held
        assert 0 < second <= seconds - held
    else:
        assert (first, second) == (0.0, 0.0)


async def test_cancelled_sqlite_write_frees_the_lock(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancel a statement that has rows to return, and collect no garbage."""
    monkeypatch.setattr("server.adapters.database.engine.BUSY_SECONDS", 1.0)
    many = text(
        "INSERT INTO tryon_leases (name, owner, expires_at)"
        " WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 20000)"
        " SELECT 'n' || x, 'o', '2030-01-01' FROM n RETURNING name"
    )
    async with opened(sqlite_url) as database, opened(sqlite_url) as other:
        executing = asyncio.Event()

        async def write() -> None:
            async with database.connections.write() as connection:
                event.listen(connection.sync_connection, "before_cursor_execute", lambda *arguments: executing.set())
                await connection.execute(many)

        writing = asyncio.create_task(write())
        await executing.wait()
        gc.disable()
        try:
            writing.cancel()
            await asyncio.wait({writing})
            await other.writer.insert(new_session())
        finally:
            gc.enable()


async def test_words_of_libpq_reach_the_server(postgres_url: str) -> None:
    """The name and the options of a URL are those of its connections."""
    query = "?sslmode=prefer&connect_timeout=9&application_name=try%20on&options=-c%20lock_timeout%3D1234"
    async with opened(postgres_url + query) as database, database.connections.read() as connection:
        shown = "SELECT current_setting('application_name'), current_setting('lock_timeout')"
        assert tuple((await connection.execute(text(shown))).one()) == ("try on", "1234ms")


async def test_tls_is_demanded_by_sslmode(postgres_url: str) -> None:
    """The server of the tests has no TLS: ``require`` cannot connect to it."""
    async with opened(f"{postgres_url}?sslmode=require") as database:
        with pytest.raises(Unavailable):
            await database.reader.check()


async def test_stopped_postgres_is_unavailable(postgres: PostgresServer) -> None:
    with contextlib.closing(PostgresServer()) as server:
        await asyncio.to_thread(server.start)
        async with opened(server.url("postgres")) as database:
            await database.clock.synchronize()
            server.close()
            for call in (
                database.reader.check(),
                database.writer.insert(new_session()),
                database.reader.get(new_session().id),
                database.feed.cursor(),
            ):
                with pytest.raises(Unavailable):
                    await call


async def test_cut_postgres_connections_are_replaced(postgres_url: str) -> None:
    """Each pooled connection fails at most once after the server has cut it."""
    async with opened(postgres_url) as database:
        session = await brought_to(database, Status.PROCESSING)
        connection = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
        await connection.close()
        for _ in range(3):
            with contextlib.suppress(Unavailable):
                await database.reader.get(session.id)
        assert await database.reader.get(session.id) == session
        assert (await change(database, session, Event.COMPLETED)).session.seq == 3


async def test_slow_postgres_statement_is_unavailable(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(postgres_url) as database:
        with monkeypatch.context() as impatient:
            impatient.setattr("server.adapters.database.engine.READ_SECONDS", 0.2)
            with pytest.raises(Unavailable):
                async with asyncio.timeout(9), database.connections.read() as connection:
                    await connection.execute(text("SELECT pg_sleep(10)"))
        await database.reader.check()


def refusals(bound: str) -> float:
    """Return how many calls have met a bound so far."""
    found = REGISTRY.get_sample_value("tryon_database_refusals_total", {"bound": bound})
    return 0.0 if found is None else found


async def test_exhausted_pool_is_unavailable_soon(postgres_url: str) -> None:
    """A call that waits too long for a connection is refused and counted."""
    before = refusals("pool")
    pool = {"database_connections": 1, "database_burst": 1, "database_wait_seconds": 0.2}
    async with opened(postgres_url, **pool) as database:
        async with database.connections.read() as first, database.connections.write() as second:
            with pytest.raises(Unavailable) as refused:
                async with asyncio.timeout(15):
                    await database.reader.check()
            assert refused.value.retry_after
            assert [await each.scalar(text("SELECT 1")) for each in (first, second)] == [1, 1]
        await database.reader.check()
    assert refusals("pool") == before + 1


@pytest.mark.parametrize(
    ("bound", "statement"), [("statement", "SELECT pg_sleep(60)"), ("lock", "LOCK TABLE tryon_leases")]
)
async def test_postgres_ends_what_takes_too_long(postgres_url: str, bound: str, statement: str) -> None:
    """The connection survives, which an abort by this process would not let it."""
    before = refusals(bound)
    limits = {"database_statement_seconds": 1.0, "database_lock_seconds": 0.2, "database_connections": 1}
    locker = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
    try:
        async with opened(postgres_url, **limits) as database, locker.transaction():
            async with database.connections.read() as connection:
                pid = await connection.scalar(text("SELECT pg_backend_pid()"))
            await locker.execute("LOCK TABLE tryon_leases")
            with pytest.raises(Unavailable):
                async with asyncio.timeout(15), database.connections.write() as connection:
                    await connection.execute(text(statement))
            async with database.connections.read() as connection:
                assert await connection.scalar(text("SELECT pg_backend_pid()")) == pid
    finally:
        await locker.close()
    assert refusals(bound) == before + 1


async def test_abandoned_postgres_statements_do_not_pile_up(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads give up waiting for a lock; each would keep a connection of the server."""
    monkeypatch.setattr("server.adapters.database.engine.ABANDONED_SECONDS", 0.1)
    monkeypatch.setattr("server.adapters.database.engine.READ_SECONDS", 20.0)
    url = postgres_url.replace("+asyncpg", "")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with opened(postgres_url) as database, contextlib.AsyncExitStack() as stack:
        await database.reader.check()
        locker, observer = await asyncpg.connect(url), await asyncpg.connect(url)
        stack.push_async_callback(locker.close)
        stack.push_async_callback(observer.close)
        async with locker.transaction():
            await locker.execute("LOCK TABLE tryon_leases")
            reading = asyncio.create_task(database.reader.check())
            async with asyncio.timeout(20):
                while not await observer.fetchval(waiting):
                    assert not reading.done()
                reading.cancel()
                while await observer.fetchval(waiting):
                    await asyncio.sleep(0)
        await database.reader.check()


async def test_standby_is_unavailable_until_promoted() -> None:
    """After a fail-over no connection to the wrong server stays in the pool."""
    with contextlib.closing(PostgresServer()) as server:
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start_again, standby=True)
        async with opened(server.url("postgres")) as database:
            with pytest.raises(Unavailable):
                await database.clock.synchronize()
            admin = await asyncpg.connect(server.url("postgres", "postgresql"))
            await admin.execute("SELECT pg_promote()")
            await admin.close()
            await database.clock.synchronize()


async def test_idle_transaction_is_ended_by_postgres(postgres_url: str) -> None:
    """A process that stops within a transaction must not lock its rows for long."""
    async with opened(postgres_url, database_idle_seconds=1.5) as frozen, opened(postgres_url) as database:
        session = await brought_to(database, Status.PROCESSING)
        moved = None
        with contextlib.suppress(Unavailable):  # its own transaction was rolled back
            async with frozen.connections.write() as connection:
                await connection.execute(text("UPDATE tryon_sessions SET seq = 9"))
                async with asyncio.timeout(15):
                    moved = await change(database, session, Event.COMPLETED)
        assert moved is not None and moved.session.seq == 3
        with contextlib.suppress(Unavailable):
            await frozen.reader.check()
        await frozen.reader.check()


async def test_transaction_without_bind_is_ended_by_postgres(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End the transaction of a client that was lost in the middle of a statement."""
    async with opened(postgres_url) as database:
        session = await brought_to(database, Status.PROCESSING)
        monkeypatch.setattr("server.adapters.database.engine.TRANSACTION_SECONDS", 1.5)
        moved = None
        with contextlib.suppress(Unavailable):  # its own transaction was rolled back
            async with opened(postgres_url) as lost, lost.connections.write() as connection:
                await connection.execute(text("UPDATE tryon_sessions SET seq = 9"))
                driver = (await connection.get_raw_connection()).driver_connection
                assert driver is not None
                await driver.prepare("SELECT 1 WHERE $1 = 5")
                async with asyncio.timeout(15):  # before its own write is given up
                    moved = await change(database, session, Event.COMPLETED)
        assert moved is not None and moved.session.seq == 3


async def test_errors_hide_stored_values(database: Database) -> None:
    """Errors are logged with their causes, so no cause may hold a stored value."""
    new = new_session(params={"name": "a person"})
    await database.writer.insert(new)
    with pytest.raises(Taken) as taken:
        await database.writer.insert(new)
    trace = "".join(traceback.format_exception(taken.value))
    assert "IntegrityError" in trace
    assert new.owner not in trace and "a person" not in trace
