"""Sessions and their audit trail in SQLite or PostgreSQL.

Every transition is one transaction: one conditional UPDATE (compare-and-set on status,
``seq`` and, for a worker, its attempt) plus one row in the audit trail. Who loses the
race changes nothing. All times are the database's own
(:class:`~server.adapters.database.tables.database_time`); :meth:`Store.now` is this
process's idea of them.

Failures to reach or use the database are :class:`~tryon.protocol.errors.Unavailable`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import (
    Connection,
    Float,
    Integer,
    Select,
    String,
    and_,
    bindparam,
    delete,
    event,
    exc,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.selectable import ScalarSelect

from server.adapters.database import tables
from server.adapters.database.tables import current_xact, database_time, oldest_open_xact
from server.domain.session import AuditEvent, Session
from tryon.protocol.errors import NotFound, StorageFull, Unavailable
from tryon.protocol.states import TRANSITIONS, Event, GoneReason, Status

BUSY_SECONDS: Final = 5.0
"""How long a call waits for its turn among this process's own writers, and then for
another process's write lock in SQLite, before it fails as unavailable.
"""

SCRUB_BUSY_MS: Final = 100
"""How long readers may keep SQLite's log from being emptied, while writers wait; then
it is tried again.
"""

COMMAND_SECONDS: Final = 10.0
"""How long PostgreSQL may take for one statement, all of which are small."""

IDLE_SECONDS: Final = 10.0
"""How long a transaction on PostgreSQL may do nothing: a process that is stopped in the
middle of one (frozen, cut off) must not keep its rows from everybody else. SQLite
cannot tell: there nobody writes while such a process is stopped.
"""

TRANSIENT_STATES: Final = ("08", "25006", "40", "53", "55", "57", "58")
"""PostgreSQL's codes (its manual's appendix A) for what passes: no connection,
read-only after a fail-over, deadlock, out of resources or connections, in recovery,
shutting down or starting up, input/output. SQLAlchemy tells none apart.
"""

_STEADY: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that nobody sets; where there is one, it goes on while the machine sleeps."""

DISK_FULL: Final = "53100"
"""PostgreSQL's code for it."""

GONE_SECONDS: Final = 120.0
"""How long an erased session is remembered (as a hash) so that every process learns of
it.
"""


def create_engine(database_url: str) -> AsyncEngine:
    """An engine that behaves the same on both databases.

    SQLite: write-ahead log, so that readers never wait for the writer; ``BEGIN
    IMMEDIATE`` for writes, because a transaction that reads first and writes later
    loses updates silently or fails at once; ``secure_delete``, so that erased rows
    leave no bytes. On neither do a statement's values reach an error's text, and with
    it a log.
    """
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        engine = create_async_engine(
            url,
            pool_size=10,
            max_overflow=10,
            pool_timeout=5,
            connect_args={"timeout": 5, "command_timeout": COMMAND_SECONDS},
            hide_parameters=True,
        )

        @event.listens_for(engine.sync_engine, "connect")
        def bound(connection: Any, record: Any) -> None:
            # By a statement: a connection pooler refuses it among a connection's first
            # parameters.
            cursor = connection.cursor()
            cursor.execute(f"SET idle_in_transaction_session_timeout = {int(IDLE_SECONDS * 1000)}")
            cursor.close()
            connection.commit()

        return engine
    engine = create_async_engine(
        url,
        connect_args={"timeout": BUSY_SECONDS},
        pool_size=5,
        pool_timeout=BUSY_SECONDS,
        hide_parameters=True,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # BEGIN is ours to send
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("tryon_read"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """What an upload becomes.

    ``deadline_seconds`` and ``retention_seconds`` count from now on the database's
    clock.
    """

    id: str
    owner: str
    processor: str
    params: dict[str, Any]
    input_key: str
    garment_key: str | None
    request_id: str | None
    deadline_seconds: float
    retention_seconds: float
    data: dict[str, Any]
    """Of the ``created`` event: file keys."""
    idempotency_key: str | None = None
    """Hash of the client's key; unique per owner."""
    idempotency_fingerprint: str | None = None
    retry_of: str | None = None
    """Unique: a session is tried again once, then its successor is."""
    expires_at: datetime | None = None
    """In place of ``retention_seconds``: a retry lives no longer than the photo it
    shares.
    """


class Taken(Exception):
    """Somebody else inserted first: the idempotency key is used, or the session has its
    retry already.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One transition to try: the event, what must hold, and what else it sets."""

    session_id: str
    event: Event
    from_status: Status
    actor: str
    seq: int | None = None
    attempt: int | None = None
    """The fencing token: the change counts only while this attempt holds the session.
    """
    within_deadline: bool = False
    cancelled: bool | None = None
    """What the cancel flag must say; None: either."""
    lease_lapsed: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Moved:
    """A transition that happened and is committed."""

    session: Session
    event: AuditEvent


@dataclass(frozen=True, slots=True)
class Story:
    """A session and its events after some ``seq``, read by one statement: they belong
    together.
    """

    session: Session
    events: list[AuditEvent]


class Queued(NamedTuple):
    """A session that should have a job in the queue."""

    session_id: str
    seq: int
    enqueues: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a reader of all news has come."""

    event_position: int
    gone_position: int
    xact: int


@dataclass(frozen=True, slots=True)
class News:
    """Everything committed since a cursor, in commit order; on PostgreSQL perhaps some
    of it again.
    """

    events: list[AuditEvent]
    gone: list[tuple[str, GoneReason]]
    """(hash of the id, reason)"""
    cursor: Cursor


_SESSION_COLUMNS: Final = [tables.sessions.c[name] for name in Session.__dataclass_fields__]
_EVENT_COLUMNS: Final = [tables.events.c[name] for name in AuditEvent.__dataclass_fields__]

# What every upload and every transition writes, built once: building a statement takes
# as long as running it.
_INSERT_SESSION: Final = (
    insert(tables.sessions)
    .values(
        created_at=database_time(),
        updated_at=database_time(),
        deadline_at=database_time(bindparam("deadline_seconds", type_=Float)),
        expires_at=func.coalesce(
            bindparam("fixed_expires_at", type_=tables.UtcDateTime()),
            database_time(bindparam("retention_seconds", type_=Float)),
        ),
    )
    .returning(*_SESSION_COLUMNS)
)
_INSERT_EVENT: Final = insert(tables.events).values(xact=current_xact())

# What every process asks every few seconds, also when nothing happens.
_BEGINNING: Final = datetime.fromtimestamp(0, UTC)
_NIL: Final = "00000000-0000-0000-0000-000000000000"
_AFTER: Final = bindparam("after", type_=tables.UtcDateTime())
_s: Final = tables.sessions.c
_UNFINISHED: Final = _s.status.in_([Status.CREATED.value, Status.PROCESSING.value])
_DUE: Final = (
    select(*_SESSION_COLUMNS)
    .where(
        or_(
            and_(_UNFINISHED, _s.deadline_at <= database_time()),
            and_(_s.status == Status.PROCESSING.value, _s.lease_expires_at <= database_time()),
        ),
        _s.expires_at > database_time(),
    )
    .where(tuple_(_s.created_at, _s.id) > tuple_(_AFTER, bindparam("after_id", type_=_s.id.type)))
    .order_by(_s.created_at, _s.id)
    .limit(bindparam("most", type_=Integer))
)
_EXPIRED: Final = (
    select(*_SESSION_COLUMNS)
    .where(_s.expires_at <= database_time())
    .order_by(_s.expires_at)
    .limit(bindparam("most", type_=Integer))
)


def _first(ends: ColumnElement[Any], *conditions: ColumnElement[bool]) -> ScalarSelect[Any]:
    return select(func.min(ends)).where(ends > _AFTER, *conditions).scalar_subquery()


_NEXT_DUE: Final = select(
    _first(_s.expires_at),
    _first(_s.deadline_at, _UNFINISHED),
    _first(_s.lease_expires_at, _s.status == Status.PROCESSING.value),
)
_LONG_WAITING: Final = (
    select(_s.id, _s.seq, _s.enqueues)
    .where(_s.status == Status.CREATED.value, _s.updated_at <= database_time(bindparam("ago", type_=Float)))
    .order_by(_s.created_at, _s.id)
)


def _news(new_events: ColumnElement[bool], new_gone: ColumnElement[bool]) -> tuple[Select[Any], Select[Any]]:
    events, gone = tables.events.c, tables.gone.c
    return (
        select(*_EVENT_COLUMNS, events.position).where(new_events).order_by(events.position),
        select(gone.id_hash, gone.reason, gone.position).where(new_gone),
    )


_NEWS_SQLITE: Final = _news(
    tables.events.c.position > bindparam("event_position"), tables.gone.c.position > bindparam("gone_position")
)
_NEWS_POSTGRESQL: Final = _news(
    tables.events.c.xact >= bindparam("since_xact"), tables.gone.c.xact >= bindparam("since_xact")
)


def _take_lease(dialect: Any) -> Any:
    by = bindparam("by", type_=String)
    lease = tables.leases.c
    statement = dialect.insert(tables.leases).values(
        name=bindparam("lease", type_=String), owner=by, expires_at=database_time(bindparam("seconds", type_=Float))
    )
    return statement.on_conflict_do_update(
        index_elements=["name"],
        set_={"owner": statement.excluded.owner, "expires_at": statement.excluded.expires_at},
        where=or_(
            lease.owner == by,
            lease.expires_at <= database_time(),
            lease.expires_at > database_time(bindparam("too_long", type_=Float)),
        ),
    ).returning(lease.owner)


_TAKE_LEASE_SQLITE: Final = _take_lease(sqlite)
_TAKE_LEASE_POSTGRESQL: Final = _take_lease(postgresql)
_HORIZON: Final = select(oldest_open_xact())

_decode = msgspec.json.decode


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _session(row: Sequence[Any]) -> Session:
    values = dict(zip(Session.__dataclass_fields__, row, strict=False))
    values["status"] = Status(values["status"])
    values["params"] = _decode(values["params"])
    return Session(**values)


def _event(row: Sequence[Any]) -> AuditEvent:
    values = dict(zip(AuditEvent.__dataclass_fields__, row, strict=False))
    values["event"] = Event(values["event"])
    values["from_status"] = None if values["from_status"] is None else Status(values["from_status"])
    values["status"] = Status(values["status"])
    values["data"] = _decode(values["data"])
    return AuditEvent(**values)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The database's troubles in the product's words.

    Programming errors stay what they are.
    """
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError, exc.InternalError, OSError) as error:
        raise Unavailable(detail="The database cannot be used right now.", retry_after=2) from error
    except exc.DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        if error.connection_invalidated or state.startswith(TRANSIENT_STATES):
            raise Unavailable(detail="The database cannot be used right now.", retry_after=2) from error
        raise


def _disk_full(error: BaseException | None) -> bool:
    cause = getattr(error, "orig", None)
    return (
        getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or getattr(cause, "sqlstate", None) == DISK_FULL
    )


class Store:
    """The one port to the database.

    Safe for concurrent use by tasks of one event loop.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._sqlite = engine.dialect.name == "sqlite"
        read = {"tryon_read": True} if self._sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._reader = engine.execution_options(**read)
        # SQLite has one writer. Queueing here is fair and quick; its own busy handler
        # sleeps and starves.
        self._write_lock = asyncio.Lock() if self._sqlite else None
        self._offset_seconds = time.time() - time.clock_gettime(_STEADY)

    def __repr__(self) -> str:
        return f"<Store {self._engine.dialect.name} {self._engine.pool.status()}>"

    async def close(self) -> None:
        await self._engine.dispose()

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """To write, one after the other on SQLite.

        While somebody else holds its lock, all who wait give up together.
        """
        lock = self._write_lock
        if lock is None:
            yield
            return
        with _translated():
            async with asyncio.timeout(BUSY_SECONDS):
                await lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextlib.asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        async with self._turn():
            with _translated():
                async with self._engine.begin() as connection:
                    yield connection

    @contextlib.asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._reader.connect() as connection:
                yield connection

    async def _add_event(self, connection: AsyncConnection, audit: AuditEvent) -> None:
        await connection.execute(
            _INSERT_EVENT,
            {
                "session_id": audit.session_id,
                "seq": audit.seq,
                "event": audit.event.value,
                "from_status": audit.from_status and audit.from_status.value,
                "status": audit.status.value,
                "at": audit.at,
                "attempt": audit.attempt,
                "actor": audit.actor,
                "data": _json(audit.data),
            },
        )

    # -- the clock ---------------------------------------------------------------------

    async def synchronize_clock(self) -> None:
        """Measure how far the database's clock is from this process's steady one; the
        error is half the round trip.
        """
        if self._sqlite:  # one machine, one clock
            return
        before = time.clock_gettime(_STEADY)
        async with self._read() as connection:
            now = (await connection.execute(select(database_time()))).scalar_one()
        self._offset_seconds = now.timestamp() - (before + time.clock_gettime(_STEADY)) / 2

    def now(self) -> float:
        """Unix seconds of the database's clock, as this process knows it.

        Setting this machine's clock does not move it, unless that is the database's
        too.
        """
        return time.time() if self._sqlite else time.clock_gettime(_STEADY) + self._offset_seconds

    # -- writing -----------------------------------------------------------------------

    async def insert(self, new: NewSession) -> Session:
        """The session and its first event, in one transaction.

        Raises :class:`Taken`; NotFound for a retry whose original does not live (any
        more); and StorageFull where the database's disk is.
        """
        try:
            return await self._insert(new)
        except exc.IntegrityError as error:
            raise Taken from error
        except Unavailable as error:
            if _disk_full(error.__cause__):
                raise StorageFull from error
            raise

    async def _insert(self, new: NewSession) -> Session:
        table = tables.sessions.c
        async with self._write() as connection:
            if new.retry_of is not None:
                # Locked against `condemn`: it either finds this retry or lets it find
                # nothing to retry.
                original = select(table.id).where(table.id == new.retry_of, table.expires_at > database_time())
                if (await connection.execute(original.with_for_update(read=True))).one_or_none() is None:
                    raise NotFound
            row = await connection.execute(
                _INSERT_SESSION,
                {
                    "id": new.id,
                    "owner": new.owner,
                    "status": Status.CREATED.value,
                    "seq": 1,
                    "attempt": 0,
                    "burnt": 0,
                    "enqueues": 1,
                    "cancel_requested": False,
                    "processor": new.processor,
                    "params": _json(new.params),
                    "input_key": new.input_key,
                    "garment_key": new.garment_key,
                    "error_retryable": False,
                    "request_id": new.request_id,
                    "idempotency_key": new.idempotency_key,
                    "idempotency_fingerprint": new.idempotency_fingerprint,
                    "retry_of": new.retry_of,
                    "deadline_seconds": new.deadline_seconds,
                    "retention_seconds": new.retention_seconds,
                    "fixed_expires_at": new.expires_at,
                },
            )
            session = _session(row.one())
            await self._add_event(
                connection,
                AuditEvent(
                    session_id=session.id,
                    seq=1,
                    event=Event.CREATED,
                    from_status=None,
                    status=Status.CREATED,
                    at=session.created_at,
                    attempt=0,
                    actor="client",
                    data=new.data,
                ),
            )
        return session

    async def transition(self, change: Change) -> Moved | None:
        """Try one transition; None: the table forbids it, or what had to hold no longer
        did, and nothing changed.
        """
        if (change.from_status, change.event) not in TRANSITIONS:
            return None
        table = tables.sessions.c
        conditions = [table.id == change.session_id, table.status == change.from_status.value]
        if change.seq is not None:
            conditions.append(table.seq == change.seq)
        if change.attempt is not None:
            conditions.append(table.attempt == change.attempt)
        if change.within_deadline:
            conditions.append(table.deadline_at > database_time())
            conditions.append(table.expires_at > database_time())
        if change.cancelled is not None:
            conditions.append(table.cancel_requested.is_(change.cancelled))
        if change.lease_lapsed:
            conditions.append(table.lease_expires_at <= database_time())
        async with self._write() as connection:
            moved = await self._move(
                connection,
                and_(*conditions),
                change.from_status,
                change.event,
                change.values,
                actor=change.actor,
                data=change.data,
            )
        return moved[0] if moved else None

    async def _move(
        self,
        connection: AsyncConnection,
        which: ColumnElement[bool],
        before: Status,
        event: Event,
        values: Mapping[str, Any],
        *,
        actor: str,
        data: Mapping[str, Any],
    ) -> list[Moved]:
        """The transition of every row that ``which`` holds for: the rows, and an event
        each.
        """
        after = TRANSITIONS[before, event]
        table = tables.sessions.c
        common: dict[str, Any] = {"status": after.value, "seq": table.seq + 1, "updated_at": database_time()}
        if after is not Status.PROCESSING:
            common |= {"lease_owner": None, "lease_expires_at": None}
        if after.terminal:
            common["finished_at"] = database_time()
        rows = await connection.execute(
            update(tables.sessions).where(which).values(**common | dict(values)).returning(*_SESSION_COLUMNS)
        )
        moved = []
        for session in map(_session, rows.all()):
            audit = AuditEvent(
                session_id=session.id,
                seq=session.seq,
                event=event,
                from_status=before,
                status=session.status,
                at=session.updated_at,
                attempt=session.attempt,
                actor=actor,
                data=dict(data) | ({"attempt": session.attempt} if event is Event.PROCESSING else {}),
            )
            await self._add_event(connection, audit)
            moved.append(Moved(session, audit))
        return moved

    async def time_out(
        self, session_ids: Collection[str], *, values: Mapping[str, Any], data: Mapping[str, Any], actor: str
    ) -> list[Moved]:
        """Those of these that have not ended by their deadline -> failed, in one
        transaction. Who is being changed by somebody else at this moment is left for
        the next time.
        """
        overdue = (
            select(_s.id, _s.status)
            .where(_s.id.in_(list(session_ids)), _UNFINISHED, _s.deadline_at <= database_time())
            .with_for_update(skip_locked=True)
        )
        moved = []
        async with self._write() as connection:
            found = (await connection.execute(overdue)).all()
            for before in (Status.CREATED, Status.PROCESSING):
                ids = [session_id for session_id, status in found if status == before.value]
                if ids:
                    which = and_(_s.id.in_(ids), _s.status == before.value)
                    moved += await self._move(connection, which, before, Event.FAILED, values, actor=actor, data=data)
        return moved

    async def claim(self, session_id: str, *, worker: str, lease_seconds: float, actor: str) -> Moved | None:
        """created -> processing for one worker: the attempt goes up and fences out
        everybody before.
        """
        return await self.transition(
            Change(
                session_id=session_id,
                event=Event.PROCESSING,
                from_status=Status.CREATED,
                actor=actor,
                within_deadline=True,
                cancelled=False,
                values={
                    "attempt": tables.sessions.c.attempt + 1,
                    "lease_owner": worker,
                    "lease_expires_at": database_time(lease_seconds),
                },
            )
        )

    async def renew(self, session_id: str, *, attempt: int, lease_seconds: float) -> bool | None:
        """Extend a claim's lease.

        Its cancel flag, or None if the claim is no longer this attempt's.
        """
        table = tables.sessions.c
        async with self._write() as connection:
            result = await connection.execute(
                update(tables.sessions)
                .where(
                    table.id == session_id,
                    table.status == Status.PROCESSING.value,
                    table.attempt == attempt,
                    table.expires_at > database_time(),
                )
                .values(lease_expires_at=database_time(lease_seconds))
                .returning(table.cancel_requested)
            )
            row = result.one_or_none()
        return None if row is None else bool(row[0])

    async def renew_all(
        self, *, lease_seconds: float, but: Collection[tuple[datetime, datetime]] = ()
    ) -> tuple[int, tuple[datetime, datetime] | None]:
        """Extend every lease, after a time in which no worker could; ``but`` those that
        end between two of these times. How many were, and between which times they end
        now.
        """
        lease = tables.sessions.c.lease_expires_at
        async with self._write() as connection:
            result = await connection.execute(
                update(tables.sessions)
                .where(
                    tables.sessions.c.status == Status.PROCESSING.value,
                    *(not_(lease.between(*times)) for times in but),
                )
                .values(lease_expires_at=database_time(lease_seconds))
                .returning(lease)
            )
            ends = list(result.scalars())
        return len(ends), (min(ends), max(ends)) if ends else None

    async def bound_ends(self, *, deadline_seconds: float, retention_seconds: float) -> None:
        """After the clock was set back: no session shall be waited for or kept longer
        than one that begins now.
        """
        table = tables.sessions.c
        unfinished = table.status.in_([Status.CREATED.value, Status.PROCESSING.value])
        deadline, expiry = database_time(deadline_seconds), database_time(retention_seconds)
        async with self._write() as connection:
            await connection.execute(
                update(tables.sessions).where(unfinished, table.deadline_at > deadline).values(deadline_at=deadline)
            )
            await connection.execute(update(tables.sessions).where(table.expires_at > expiry).values(expires_at=expiry))

    async def request_cancel(self, session_id: str, *, seq: int) -> bool:
        """Flag a running session.

        The flag outlives the worker it was meant for. False: it moved on meanwhile.
        """
        table = tables.sessions.c
        async with self._write() as connection:
            result = await connection.execute(
                update(tables.sessions)
                .where(table.id == session_id, table.seq == seq, table.status == Status.PROCESSING.value)
                .values(cancel_requested=True)
            )
        return result.rowcount == 1

    async def condemn(self, session_id: str, *, gone_hash: Callable[[str], str]) -> list[Session]:
        """Expire a session and every retry of the same photo now, and leave word that
        they were deleted: from this commit on nobody can read, claim, complete or retry
        them. Erasing them may follow at leisure, by whoever is alive. Those that were
        still alive.
        """
        table = tables.sessions.c
        async with self._write() as connection:
            family: list[str] = []
            # Each turn locks what it found; a retry that was being inserted is found by
            # the next.
            while len(found := await self._family(connection, session_id)) > len(family):
                family = found
                locked = select(table.id).where(table.id.in_(family)).order_by(table.id).with_for_update()
                await connection.execute(locked)
            result = await connection.execute(
                update(tables.sessions)
                .where(table.id.in_(family), table.expires_at > database_time())
                .values(expires_at=database_time())
                .returning(*_SESSION_COLUMNS)
            )
            condemned = [_session(row) for row in result.all()]
            await self._leave_word(connection, [gone_hash(each.id) for each in condemned], GoneReason.DELETED)
        return condemned

    async def _family(self, connection: AsyncConnection, session_id: str) -> list[str]:
        """The ids of all sessions over the same photo: every retry before and after
        this one, itself included.
        """
        table = tables.sessions.c
        chain = select(table.id, table.retry_of).where(table.id == session_id).cte("family", recursive=True)
        # UNION, not UNION ALL: each row once ends the walk, whichever way it goes.
        chain = chain.union(
            select(table.id, table.retry_of).where(or_(table.retry_of == chain.c.id, table.id == chain.c.retry_of))
        )
        return [str(row) for row in (await connection.execute(select(chain.c.id))).scalars()]

    async def _leave_word(self, connection: AsyncConnection, hashes: Collection[str], reason: GoneReason) -> None:
        if hashes:
            row = {"reason": reason.value, "at": database_time(), "xact": current_xact()}
            await connection.execute(insert(tables.gone).values([row | {"id_hash": each} for each in hashes]))

    async def note_delivered(self, handed: Mapping[str, float]) -> dict[str, datetime]:
        """Write down when these ended sessions were first handed to a client (Unix
        seconds of :meth:`now`); the first to say so wins. For those that nobody had
        said it of: when they ended. All in one transaction: hand over some hundreds.
        """
        table = tables.sessions.c
        async with self._write() as connection:
            unsaid = (
                select(table.id, table.finished_at)
                .where(table.id.in_(list(handed)), table.finished_at.is_not(None), table.delivered_at.is_(None))
                .order_by(table.id)  # in which everybody locks who locks several, or two could wait for each other
            )
            ended = {str(row[0]): row[1] for row in await connection.execute(unsaid)}
            if ended:
                now = self.now()
                await connection.execute(
                    update(tables.sessions)
                    .where(table.id == bindparam("session"), table.delivered_at.is_(None))
                    .values(delivered_at=database_time(bindparam("offset", type_=Float))),
                    [{"session": id, "offset": handed[id] - now} for id in ended],
                )
        return ended

    async def count_enqueue(self, session_id: str, *, seq: int, enqueues: int) -> Session | None:
        """Note one more enqueue of a waiting session (the n of its job id); None:
        somebody else did, or it moved on.
        """
        async with self._write() as connection:
            result = await connection.execute(
                update(tables.sessions)
                .where(_s.id == session_id, _s.seq == seq, _s.enqueues == enqueues, _s.expires_at > database_time())
                .values(enqueues=enqueues + 1)
                .returning(*_SESSION_COLUMNS)
            )
            row = result.one_or_none()
        return None if row is None else _session(row)

    async def erase(self, hashes: dict[str, str], reason: GoneReason) -> list[Session]:
        """Remove sessions with their events, and leave for each the hash of its id.

        The rows that were removed.
        """
        if not hashes:
            return []
        async with self._write() as connection:
            result = await connection.execute(
                delete(tables.sessions).where(tables.sessions.c.id.in_(list(hashes))).returning(*_SESSION_COLUMNS)
            )
            erased = [_session(row) for row in result.all()]
            ids = [session.id for session in erased]
            if ids:
                await connection.execute(delete(tables.events).where(tables.events.c.session_id.in_(ids)))
                await self._leave_word(connection, [hashes[id] for id in ids], reason)
        return erased

    async def scrub(self) -> bool:
        """SQLite: let the write-ahead log go, which still holds pages as they were
        before an erasure. False: somebody was reading it; try again. A PostgreSQL
        forgets by its own rules.
        """
        if not self._sqlite:
            return True
        async with self._turn(), self._read() as connection:
            await connection.exec_driver_sql(f"PRAGMA busy_timeout={SCRUB_BUSY_MS}")
            try:
                busy = (await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")).scalar_one()
            finally:
                if not connection.invalidated:  # else it is thrown away
                    await connection.exec_driver_sql(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
        return not busy

    async def forget_strays(self) -> int:
        """Delete events that belong to no session. There should be none."""
        async with self._write() as connection:
            result = await connection.execute(
                delete(tables.events).where(tables.events.c.session_id.not_in(select(tables.sessions.c.id)))
            )
        return result.rowcount

    async def forget_gone(self) -> int:
        """Drop the hashes of erased sessions after :data:`GONE_SECONDS`."""
        async with self._write() as connection:
            result = await connection.execute(
                delete(tables.gone).where(tables.gone.c.at <= database_time(-GONE_SECONDS))
            )
        return result.rowcount

    async def take_lease(self, name: str, *, owner: str, seconds: float) -> bool:
        """One process at a time:

        True if the named lease is free, lapsed or already this owner's. One that ends
        later than anybody takes it for was left behind when the clock was set back.
        """
        statement = _TAKE_LEASE_SQLITE if self._sqlite else _TAKE_LEASE_POSTGRESQL
        wanted = {"lease": name, "by": owner, "seconds": seconds, "too_long": 2 * seconds}
        async with self._write() as connection:
            return (await connection.execute(statement, wanted)).one_or_none() is not None

    async def drop_lease(self, name: str, *, owner: str) -> None:
        async with self._write() as connection:
            await connection.execute(
                delete(tables.leases).where(tables.leases.c.name == name, tables.leases.c.owner == owner)
            )

    # -- reading -----------------------------------------------------------------------

    async def get(self, session_id: str) -> Session | None:
        """The session if it lives.

        An expired one is unreadable at its time, even while its row still waits for
        erasure.
        """
        story = await self.story(session_id)
        return None if story is None else story.session

    async def story(self, session_id: str, since: int | None = None) -> Story | None:
        """A session and its events after ``since`` (None: none of them), by one
        statement.
        """
        stories = await self.stories([session_id], since)
        return stories.get(session_id)

    async def stories(self, session_ids: Collection[str], since: int | None = None) -> dict[str, Story]:
        """Several at once; unknown and expired ids are missing from the answer."""
        live = and_(tables.sessions.c.id.in_(list(session_ids)), tables.sessions.c.expires_at > database_time())
        if since is None:
            query = select(*_SESSION_COLUMNS).where(live)
        else:
            joined = tables.sessions.outerjoin(
                tables.events, and_(tables.events.c.session_id == tables.sessions.c.id, tables.events.c.seq > since)
            )
            query = (
                select(*_SESSION_COLUMNS, *_EVENT_COLUMNS).select_from(joined).where(live).order_by(tables.events.c.seq)
            )
        async with self._read() as connection:
            rows = (await connection.execute(query)).all()
        found: dict[str, Story] = {}
        width = len(_SESSION_COLUMNS)
        for row in rows:
            story = found.get(row[0])
            if story is None:
                story = found[row[0]] = Story(_session(row[:width]), [])
            if len(row) > width and row[width] is not None:
                story.events.append(_event(row[width:]))
        return found

    async def seqs(self, session_ids: Collection[str]) -> dict[str, int]:
        """How far each has come; unknown and expired ids are missing from the answer.

        A tenth of a :class:`Story`'s cost.
        """
        table = tables.sessions.c
        query = select(table.id, table.seq).where(table.id.in_(list(session_ids)), table.expires_at > database_time())
        async with self._read() as connection:
            return {row[0]: row[1] for row in (await connection.execute(query)).all()}

    async def of_owner(self, owner: str, *, limit: int, before: tuple[datetime, str] | None) -> list[Session]:
        """An owner's living sessions, newest first; ``before``: only those older than
        this (created_at, id).
        """
        table = tables.sessions.c
        query = select(*_SESSION_COLUMNS).where(table.owner == owner, table.expires_at > database_time())
        if before is not None:
            at, session_id = before
            query = query.where(or_(table.created_at < at, and_(table.created_at == at, table.id < session_id)))
        query = query.order_by(table.created_at.desc(), table.id.desc()).limit(limit)
        async with self._read() as connection:
            return [_session(row) for row in (await connection.execute(query)).all()]

    async def by_idempotency_key(self, owner: str, key: str) -> tuple[Session, str] | None:
        """The living session that this key made, and the fingerprint of what it was
        made from.
        """
        table = tables.sessions.c
        query = select(*_SESSION_COLUMNS, table.idempotency_fingerprint).where(
            table.owner == owner, table.idempotency_key == key, table.expires_at > database_time()
        )
        async with self._read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else (_session(row), row[-1])

    async def retry_of(self, session_id: str) -> Session | None:
        """The living session that tries this one again."""
        query = select(*_SESSION_COLUMNS).where(
            tables.sessions.c.retry_of == session_id, tables.sessions.c.expires_at > database_time()
        )
        async with self._read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _session(row)

    async def ids_among(self, session_ids: Collection[str]) -> set[str]:
        """Which of these have a row."""
        found: set[str] = set()
        ids = list(session_ids)
        async with self._read() as connection:
            for start in range(0, len(ids), 500):
                chunk = ids[start : start + 500]
                rows = await connection.execute(select(tables.sessions.c.id).where(tables.sessions.c.id.in_(chunk)))
                found.update(rows.scalars())
        return found

    async def deleted_among(self, hashes: Collection[str]) -> set[str]:
        """Of which of these somebody has left word that they were deleted, within
        :data:`GONE_SECONDS`.
        """
        found: set[str] = set()
        wanted, gone = list(hashes), tables.gone.c
        async with self._read() as connection:
            for start in range(0, len(wanted), 500):
                chunk = wanted[start : start + 500]
                words = select(gone.id_hash).where(gone.reason == GoneReason.DELETED.value, gone.id_hash.in_(chunk))
                found.update((await connection.execute(words)).scalars())
        return found

    async def cursor(self) -> Cursor:
        """Where a reader of all news starts: everything committed before is behind it."""
        async with self._read() as connection:
            row = (
                await connection.execute(
                    select(
                        func.coalesce(select(func.max(tables.events.c.position)).scalar_subquery(), 0),
                        func.coalesce(select(func.max(tables.gone.c.position)).scalar_subquery(), 0),
                        func.coalesce(oldest_open_xact(), 0),
                    )
                )
            ).one()
        return Cursor(*row)

    async def news(self, cursor: Cursor) -> News:
        """All transitions and erasures committed since ``cursor``.

        It follows commit order, not wall time, so that a commit that stalled is not
        missed. SQLite: the position. On PostgreSQL a position is given before its
        commit, so a later one may be visible earlier; therefore read again from the
        oldest transaction that was open at the last reading (``pg_snapshot_xmin``,
        PostgreSQL 18 section 9.28).
        """
        after = await self._news_horizon() if not self._sqlite else 0
        async with self._read() as connection:
            if self._sqlite:
                new_events, new_gone = _NEWS_SQLITE
                event_rows = (await connection.execute(new_events, {"event_position": cursor.event_position})).all()
                gone_rows = (await connection.execute(new_gone, {"gone_position": cursor.gone_position})).all()
            else:
                new_events, new_gone = _NEWS_POSTGRESQL
                event_rows = (await connection.execute(new_events, {"since_xact": cursor.xact})).all()
                gone_rows = (await connection.execute(new_gone, {"since_xact": cursor.xact})).all()
        return News(
            [_event(row) for row in event_rows],
            [(row[0], GoneReason(row[1])) for row in gone_rows],
            Cursor(
                max((row[-1] for row in event_rows), default=cursor.event_position),
                max((row[-1] for row in gone_rows), default=cursor.gone_position),
                after,
            ),
        )

    async def _news_horizon(self) -> int:
        """Taken before the rows are read: what commits in between is read now and again
        next time, never missed.
        """
        async with self._read() as connection:
            return int((await connection.execute(_HORIZON)).scalar_one())

    async def due(self, *, after: Session | None = None, limit: int = 100) -> list[Session]:
        """Living sessions that need the reconciler: past the deadline, or lease lapsed.

        Oldest first, ``limit`` at a time; ``after``: the last one of the page before.
        """
        since = (_BEGINNING, _NIL) if after is None else (after.created_at, after.id)
        async with self._read() as connection:
            rows = await connection.execute(_DUE, {"after": since[0], "after_id": since[1], "most": limit})
            return [_session(row) for row in rows.all()]

    async def expired(self, *, limit: int) -> list[Session]:
        """Those whose time has passed, the longest ago first."""
        async with self._read() as connection:
            return [_session(row) for row in (await connection.execute(_EXPIRED, {"most": limit})).all()]

    async def long_waiting(self, *, seconds: float) -> list[Queued]:
        """Sessions that wait for a worker since ``seconds`` or longer, oldest first,
        whether or not the queue knows them.

        All of them, so each is only what its job id is made of: 10,000 take 30 ms.
        """
        async with self._read() as connection:
            return [Queued(*row) for row in (await connection.execute(_LONG_WAITING, {"ago": -seconds})).all()]

    async def next_due(self, after: datetime | None = None) -> datetime | None:
        """When the next lease, deadline or expiry ends, if any session lives;
        ``after``: of those that end later than this, for whoever has tried all others.
        """
        async with self._read() as connection:
            row = (await connection.execute(_NEXT_DUE, {"after": after or _BEGINNING})).one()
        return min((at for at in row if at is not None), default=None)

    async def waiting(self) -> int:
        """Sessions that wait for a worker."""
        async with self._read() as connection:
            query = select(func.count()).select_from(tables.sessions)
            return int(
                (await connection.execute(query.where(tables.sessions.c.status == Status.CREATED.value))).scalar_one()
            )

    async def check(self) -> None:
        """A round trip, for the health check. Raises Unavailable."""
        async with self._read() as connection:
            await connection.execute(select(literal(1)).select_from(tables.leases).limit(1))
