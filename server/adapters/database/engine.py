"""Connections to SQLite or PostgreSQL: pools, transactions and time-outs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from server.adapters.database.errors import disk_is_full, mapped_errors, server_lost
from server.adapters.database.lost_connections import LostConnections
from server.adapters.database.measuring import Measured
from server.config.database_settings import DatabaseSettings
from server.config.database_url import SQLITE, DatabaseUrl, parse_database_url
from server.system.disk_space import Reserve
from tryon.protocol.errors import StorageFull, Unavailable

log = logging.getLogger("tryon.database")

BUSY_SECONDS: Final = 5.0
"""Maximum wait for a write on SQLite, first for the turn among this process's own
writers, then for another process's write lock; after that the call is unavailable.
"""

CONNECT_SECONDS: Final = 5
"""Maximum time to connect to PostgreSQL, unless its URL has a ``connect_timeout``."""

READ_SECONDS: Final = 2.0
"""Maximum duration of a read on PostgreSQL, from the wait for a connection to the last
row; all are small. A connection that needs longer is taken for lost, and with it every
idle one.
"""

WRITE_SECONDS: Final = 5.0
"""The same for a transaction that writes, which may have to wait for another's lock."""

MIGRATION_SECONDS: Final = 3600.0
"""Maximum duration of one statement of a migration on PostgreSQL, or of the wait for
another process that migrates: an index over ten million sessions takes some 10 s.
"""

CLOSE_SECONDS: Final = 1.0
"""Maximum time to say goodbye to PostgreSQL; then connections are aborted."""

TRANSACTION_SECONDS: Final = 15.0
"""Maximum duration of a transaction but a migration, from PostgreSQL 17. A client that
is lost between a statement's Parse and Bind does not count as idle: its transaction
would lock its rows until TCP gives the connection up. Older servers find out by
:data:`KEEPALIVE`.
"""

_KNOWS_LIMIT: Final = "current_setting('transaction_timeout', true) IS NOT NULL"

UNLIMIT_TRANSACTION: Final = (
    "SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true), "
    f"CASE WHEN {_KNOWS_LIMIT} THEN set_config('transaction_timeout', '0', true) END"
)
"""Statement that frees the transaction it runs in from all limits of time."""

DEFAULTS: Final = DatabaseSettings()

KEEPALIVE: Final = {"tcp_keepalives_idle": 10, "tcp_keepalives_interval": 3, "tcp_keepalives_count": 3}
"""Probes that PostgreSQL sends to a silent client: a lost one is found in 19 s."""

ABANDONED_SECONDS: Final = 1.0
"""Maximum time that PostgreSQL goes on with a statement whose connection was aborted.
Else the statements that wait for a lock would pile up there, each with a connection,
until it has none left (``client_connection_check_interval``, from PostgreSQL 14).
"""

SQLITE_PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "secure_delete=ON",
    "foreign_keys=ON",
    "temp_store=MEMORY",
)
"""Settings of each SQLite connection. Write-ahead log: readers never wait for the
writer. ``secure_delete``: erased rows leave no bytes. ``temp_store``: a full ``/tmp``
stops no statement.
"""


def create_engine(database_url: str, settings: DatabaseSettings = DEFAULTS) -> AsyncEngine:
    """Return an engine that behaves the same on both databases.

    It connects when it is first used. The values of a statement never reach an error's
    text, and so no log. ``settings``: those of PostgreSQL.
    """
    url = parse_database_url(database_url)
    return _create_sqlite_engine(url.path) if url.sqlite else _create_postgresql_engine(url, settings)


def _create_postgresql_engine(url: DatabaseUrl, settings: DatabaseSettings) -> AsyncEngine:
    # Without names and caches each statement is parsed in the message that runs it, so
    # that it does not matter which of its connections a pooler picks for it.
    unnamed = {"statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
    engine = create_async_engine(
        make_url(url.address),
        pool_size=settings.database_connections,
        max_overflow=settings.database_burst,
        pool_timeout=settings.database_wait_seconds,
        # A connection to a standby would stay in the pool after a fail-over: it reads
        # what is old, and refuses every write.
        connect_args={
            "dsn": url.driver_url,
            "timeout": url.connect_seconds or CONNECT_SECONDS,
            "command_timeout": MIGRATION_SECONDS,  # reads and writes are bounded by Connections
            "target_session_attrs": "primary",
            "server_settings": dict(url.server),
        }
        | (unnamed if url.pooled else {}),
        hide_parameters=True,
    )
    if not url.pooled:
        _limit_time(engine, settings, said=url.server.get("options", ""))
    return engine


def _limit_time(engine: AsyncEngine, settings: DatabaseSettings, *, said: str) -> None:
    """Set the server's limits on each new connection, but those that its URL sets."""
    limits = {
        "statement_timeout": settings.database_statement_seconds,
        "lock_timeout": settings.database_lock_seconds,
        "idle_in_transaction_session_timeout": settings.database_idle_seconds,
        "client_connection_check_interval": ABANDONED_SECONDS,
    }
    values = {name: int(seconds * 1000) for name, seconds in limits.items() if name not in said} | KEEPALIVE
    set_limits = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in values.items())
    limit_transactions = f"set_config('transaction_timeout', '{int(TRANSACTION_SECONDS * 1000)}', false)"
    set_limits += f", CASE WHEN {_KNOWS_LIMIT} THEN {limit_transactions} END"

    @event.listens_for(engine.sync_engine, "connect")
    def limit_abandoned_work(connection: Any, record: Any) -> None:
        # By a statement: a connection pooler refuses them among a connection's first
        # parameters.
        cursor = connection.cursor()
        cursor.execute(f"SELECT {set_limits}")
        cursor.close()
        connection.commit()


def _create_sqlite_engine(path: str | None) -> AsyncEngine:
    engine = create_async_engine(
        URL.create(SQLITE, database=path),  # a file's name may hold any character
        connect_args={"timeout": BUSY_SECONDS},
        pool_size=5,
        pool_timeout=BUSY_SECONDS,
        hide_parameters=True,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver sends no BEGIN; `begin` below does
        cursor = connection.cursor()
        for pragma in SQLITE_PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "invalidate")
    def roll_back(connection: Any, record: Any, error: BaseException | None) -> None:
        # A cancelled INSERT ... RETURNING has rows left, so that closing its connection
        # would wait for the garbage collector, and hold the write lock until then.
        with contextlib.suppress(Exception):
            connection.rollback()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later loses updates silently or
        # fails at once; with the lock taken at its beginning it does neither.
        if not connection.get_execution_options().get("tryon_read"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


class Connections:
    """The connections of one process to the database, which its parts share.

    Safe for concurrent use by tasks of one event loop. Each context raises Unavailable
    if the database cannot be reached or used.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.sqlite = engine.dialect.name == "sqlite"
        read = {"tryon_read": True} if self.sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._reader = engine.execution_options(**read)
        # SQLite has one writer. A queue in this process is fair and quick; SQLite's own
        # busy handler sleeps and starves.
        self._write_lock = asyncio.Lock() if self.sqlite else None
        self._lost = None if self.sqlite else LostConnections(engine)
        path = engine.url.database if self.sqlite else None
        self._reserve = Reserve(Path(path)) if path and path != ":memory:" else None
        self.outages = 0
        """Number of uses that found PostgreSQL gone. Always 0 on SQLite: a write that
        times out has only waited for other writers.
        """
        self.turn_seconds = 0.0
        """Duration of the last writer's turn on SQLite, from its lock to its commit:
        every other writer waited for it. Always 0 on PostgreSQL: writers wait for rows.
        Of the caller's own write until its next await.
        """

    def __repr__(self) -> str:
        return f"<Connections {self.engine.dialect.name} {self.engine.pool.status()}>"

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection that reads; each statement sees all commits before it."""
        with Measured("read") as measured, self._counted_errors():
            async with self._bounded(READ_SECONDS), self._reader.connect() as connection:
                measured.connected()
                yield connection

    @contextlib.asynccontextmanager
    async def write(self, *, seconds: float | None = None, grows: bool = False) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that commits at the end, or rolls back at an exception.

        ``seconds`` bounds it on PostgreSQL, by default to :data:`WRITE_SECONDS`. On a
        full disk SQLite has the room of a reserve (:mod:`~server.system.disk_space`)
        for everything but what lets the database grow without end: ``grows`` raises
        StorageFull then.
        """
        with Measured("write") as measured:
            async with self.writers_turn():
                if not self.make_room() and grows:
                    raise StorageFull
                try:
                    with self._counted_errors():
                        async with self._bounded(seconds or WRITE_SECONDS), self.engine.begin() as connection:
                            measured.connected()
                            locked_at = time.perf_counter()
                            yield connection
                    if self.sqlite:
                        self.turn_seconds = time.perf_counter() - locked_at
                except Unavailable as error:
                    if self._reserve is not None and disk_is_full(error.__cause__):
                        self._reserve.release()
                    raise

    @contextlib.contextmanager
    def _counted_errors(self) -> Iterator[None]:
        try:
            with mapped_errors():
                yield
        except Unavailable as error:
            self.outages += not self.sqlite and server_lost(error.__cause__)
            raise

    def make_room(self) -> bool:
        """Keep room on SQLite's disk; return whether the database may grow.

        For a writer, in its turn; always True on PostgreSQL.
        """
        return self._reserve is None or self._reserve.adjust()

    @contextlib.asynccontextmanager
    async def _bounded(self, seconds: float) -> AsyncIterator[None]:
        """Raise TimeoutError when the block takes longer; no bound on SQLite.

        The connection in use is aborted by its pool, and the idle ones here.
        """
        if self._lost is None:
            yield
            return
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            if dropped := self._lost.drop_idle():
                log.warning("The database did not answer within %g s: dropped %d idle connections", seconds, dropped)
            raise

    @contextlib.asynccontextmanager
    async def writers_turn(self) -> AsyncIterator[None]:
        """Wait until no other task of this process writes; no wait on PostgreSQL.

        While another process holds SQLite's lock, all tasks that wait give up together,
        after :data:`BUSY_SECONDS`.
        """
        lock = self._write_lock
        if lock is None:
            yield
            return
        with mapped_errors():
            async with asyncio.timeout(BUSY_SECONDS):
                await lock.acquire()
        try:
            yield
        finally:
            lock.release()

    async def close(self) -> None:
        """Close all connections, those in use when they are given back."""
        if self._lost is not None:
            await self._lost.close_idle(CLOSE_SECONDS)
        await self.engine.dispose()
