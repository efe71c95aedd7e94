"""The writes of sessions that other packages call: each is one transaction.

Theory of operation. Web processes, workers and the reconciler change sessions at the
same time, and none of them holds a lock while it thinks. Each reads a session, decides,
and then asks for the change *with the conditions it decided on*: a compare-and-set. One
``UPDATE ... WHERE ... RETURNING`` checks and changes at once; of any number of callers
that ask for the same change, one gets the row back and all others get None, and nothing
of theirs is written.

The conditions of a :class:`~server.adapters.database.changes.Change`, from the weakest:

- ``from_status``, always: the pair of it and the outcome's event must stand in
  :data:`~tryon.protocol.states.TRANSITIONS`, else the change is refused without a
  round trip;
- ``seq``: nothing at all has happened since the caller read the session;
- ``attempt``, the fencing token of a worker: each claim raises it, so a worker that was
  cut off and comes back changes nothing once another has begun;
- ``within_deadline``, ``cancelled``, ``lease_lapsed``: the deadline, the cancel flag
  and the lease, judged at the moment of the write and not of the read.

A change that counts raises ``seq`` by one and appends the event of that seq to
``tryon_events`` in the same transaction. The audit trail therefore has neither hole nor
repeat, and it is the event log that clients resume from. The caller publishes after the
commit; if it dies in between, web processes find the event in the
:mod:`~server.adapters.database.feed`.

All times are the database's own
(:class:`~server.adapters.database.tables.database_time`), so machines whose clocks
differ agree on which lease has lapsed.

Locks. SQLite has one writer at a time, so nothing deadlocks. On PostgreSQL a statement
that locks several sessions locks them in the order of their ids (``mark_deleted``,
``note_delivered``) or skips the locked ones (``time_out``).

Erasing is two commits. :meth:`SessionWriter.mark_deleted` expires a session with all
retries of the same photo and leaves their tombstones: from then on none of them can be
read, claimed, completed or retried. A session that expires by itself is unreadable
already, and :meth:`SessionWriter.leave_tombstones` does the rest.
:meth:`SessionWriter.erase` removes the rows, after the files; any process can do it if
the first one dies. A retry that is inserted while
its original is deleted either finds it expired, or is found: the insert share-locks the
original, and ``mark_deleted`` looks for the family again until it stops growing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Float, and_, bindparam, delete, func, insert, not_, select, update

from server.adapters.database import engine, tables
from server.adapters.database.changes import Begin, Change, Deleted, Fail, Moved, NewSession
from server.adapters.database.cleanups import CleanupKind, add_cleanups
from server.adapters.database.clock import DatabaseClock
from server.adapters.database.deliveries import add_delivery
from server.adapters.database.engine import Connections
from server.adapters.database.errors import mapped_insert_errors
from server.adapters.database.rows import (
    FILE_COLUMNS,
    LIVING,
    ROW_COLUMNS,
    SESSION_COLUMNS,
    UNFINISHED,
    add_files,
    family_of,
    to_file,
    to_json,
    to_session,
)
from server.adapters.database.tables import database_time, statement_time
from server.adapters.database.tombstones import add_tombstones
from server.adapters.database.transitions import add_event, move
from server.adapters.database.usage import usage_of
from server.domain.frames import files_data
from server.domain.session import AuditEvent, Session
from server.domain.stored_files import StoredFile
from tryon.protocol.errors import NotFound
from tryon.protocol.states import TRANSITIONS, Event, GoneReason, Status
from tryon.protocol.views import EventData

# Built once: building a statement takes as long as running it.
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
    .returning(*ROW_COLUMNS)
)
_s: Final = tables.sessions.c
_PROCESSING: Final = _s.status == Status.PROCESSING.value

TOMBSTONES_A_STATEMENT: Final = 500
"""Maximum tombstones in one statement; SQLite limits its parameters."""


class SessionWriter:
    """The changes of sessions; see the theory of operation above.

    Each method is one transaction: it commits before it returns, or raises and changes
    nothing. All raise Unavailable.
    """

    def __init__(self, connections: Connections, *, clock: DatabaseClock) -> None:
        self._connections = connections
        self._clock = clock

    def __repr__(self) -> str:
        return f"<SessionWriter of {self._connections!r}>"

    async def insert(self, new: NewSession) -> Session:
        """Insert a session with its first event.

        Raises :class:`~server.adapters.database.errors.Taken`; NotFound for a retry
        whose original is deleted or expired; StorageFull if the disk is full;
        RateLimited if its owner or its address has all that ``new.allowance`` grants.
        """
        with mapped_insert_errors():
            return await self._insert(new)

    async def _insert(self, new: NewSession) -> Session:
        async with self._connections.write(grows=True) as connection:
            if (model := new.retry_of or new.copy_of) is not None:
                original = select(_s.id).where(_s.id == model, LIVING)
                # Locked against `mark_deleted`: it finds this retry, or the retry finds
                # no original.
                if (await connection.execute(original.with_for_update(read=True))).one_or_none() is None:
                    raise NotFound
            if new.allowance is not None:
                usage = await usage_of(connection, owner=new.owner, address_hash=new.address_hash)
                new.allowance.judge(usage, sum(file.bytes for file in new.files))
            row = await connection.execute(_INSERT_SESSION, _values(new))
            session = replace(to_session(row.one()), files=new.files)
            await add_files(connection, session.id, new.files)
            await add_delivery(connection, new)
            event = AuditEvent(
                session_id=session.id,
                seq=1,
                event=Event.CREATED,
                from_status=None,
                status=Status.CREATED,
                at=session.created_at,
                attempt=0,
                actor="client",
                data=_created_data(session, seed_chosen=new.seed_chosen),
            )
            await add_event(connection, event)
        return session

    async def transition(self, change: Change) -> Moved | None:
        """Try one transition.

        Return None, with nothing changed, if the table of transitions forbids it or one
        of its conditions does not hold.
        """
        if (change.from_status, change.outcome.event) not in TRANSITIONS:
            return None
        conditions = [_s.id == change.session_id, _s.status == change.from_status.value]
        if change.seq is not None:
            conditions.append(_s.seq == change.seq)
        if change.attempt is not None:
            conditions.append(_s.attempt == change.attempt)
        if change.within_deadline:
            conditions.append(_s.deadline_at > database_time())
            conditions.append(LIVING)
        if change.cancelled is not None:
            conditions.append(_s.cancel_requested.is_(change.cancelled))
        if change.lease_lapsed:
            conditions.append(_s.lease_expires_at <= database_time())
        if isinstance(change.outcome, Begin) and change.outcome.processors is not None:
            conditions.append(_s.processor.in_(sorted(change.outcome.processors)))
        # A claim on a lost connection is given up early: its session waits meanwhile.
        seconds = engine.READ_SECONDS if isinstance(change.outcome, Begin) else None
        async with self._connections.write(seconds=seconds) as connection:
            moved = await move(
                connection,
                and_(*conditions),
                change.from_status,
                change.outcome,
                actor=change.actor,
                usage=change.usage,
            )
        return moved[0] if moved else None

    async def time_out(self, session_ids: Collection[str], outcome: Fail, *, actor: str) -> list[Moved]:
        """Fail the sessions among these that have not ended by their deadline.

        A row that another transaction is changing is skipped, for the next time.
        """
        overdue = (
            select(_s.id, _s.status)
            .where(_s.id.in_(sorted(session_ids)), UNFINISHED, _s.deadline_at <= database_time())
            .with_for_update(skip_locked=True)
        )
        moved = []
        async with self._connections.write() as connection:
            found = (await connection.execute(overdue)).all()
            for before in (Status.CREATED, Status.PROCESSING):
                ids = [session_id for session_id, status in found if status == before.value]
                if ids:
                    rows = and_(_s.id.in_(ids), _s.status == before.value)
                    moved += await move(connection, rows, before, outcome, actor=actor)
        return moved

    async def claim(
        self,
        session_id: str,
        *,
        worker: str,
        lease_seconds: float,
        actor: str,
        processors: Collection[str] | None = None,
    ) -> Moved | None:
        """Move a waiting session to processing; its attempt goes up by one.

        ``processors``: as in :class:`Begin`. Return None if it waits no more, its
        deadline has passed, it is to be cancelled, or is for another processor.
        """
        return await self.transition(
            Change(
                session_id=session_id,
                outcome=Begin(worker, lease_seconds, processors),
                from_status=Status.CREATED,
                actor=actor,
                within_deadline=True,
                cancelled=False,
            )
        )

    async def renew(self, session_id: str, *, attempt: int, lease_seconds: float) -> bool | None:
        """Extend the lease of a claim, and return its cancel flag.

        Return None if the claim is no longer this attempt's. It is bounded as a read
        is, so that it can be tried again before the lease lapses.
        """
        async with self._connections.write(seconds=engine.READ_SECONDS) as connection:
            result = await connection.execute(
                update(tables.sessions)
                .where(_s.id == session_id, _PROCESSING, _s.attempt == attempt, LIVING)
                .values(lease_expires_at=database_time(lease_seconds))
                .returning(_s.cancel_requested)
            )
            row = result.one_or_none()
        return None if row is None else bool(row[0])

    async def renew_all(
        self, *, lease_seconds: float, but: Collection[tuple[datetime, datetime]] = ()
    ) -> tuple[int, tuple[datetime, datetime] | None]:
        """Extend every lease, after a time in which no worker could.

        Leases that end between two of the times in ``but`` are left alone. Return how
        many were extended, and the earliest and latest time at which they end now.
        """
        lease = _s.lease_expires_at
        async with self._connections.write() as connection:
            result = await connection.execute(
                update(tables.sessions)
                .where(_PROCESSING, *(not_(lease.between(*times)) for times in but))
                .values(lease_expires_at=database_time(lease_seconds))
                .returning(lease)
            )
            ends = list(result.scalars())
        return len(ends), (min(ends), max(ends)) if ends else None

    async def bound_ends(self, *, deadline_seconds: float, retention_seconds: float) -> None:
        """Bound all deadlines and expiries to those of a session that begins now.

        For the case that the clock was set back, which would keep sessions for longer.
        """
        # Upper bounds: a wait for a lock makes them no worse.
        deadline, expiry = statement_time(deadline_seconds), statement_time(retention_seconds)
        sessions = update(tables.sessions)
        async with self._connections.write() as connection:
            await connection.execute(sessions.where(UNFINISHED, _s.deadline_at > deadline).values(deadline_at=deadline))
            await connection.execute(sessions.where(_s.expires_at > expiry).values(expires_at=expiry))

    async def request_cancel(self, session_id: str, *, seq: int) -> bool:
        """Set the cancel flag of a running session; it outlives the worker.

        Return False if the session moved on from ``seq`` meanwhile.
        """
        async with self._connections.write() as connection:
            result = await connection.execute(
                update(tables.sessions)
                .where(_s.id == session_id, _s.seq == seq, _PROCESSING)
                .values(cancel_requested=True)
            )
        return result.rowcount == 1

    async def mark_deleted(self, session_id: str, *, id_hash: Callable[[str], str]) -> Deleted:
        """Expire a session and every retry of the same photo now, and leave tombstones.

        :meth:`erase` removes them. What an upstream keeps of them is to be forgotten.
        """
        async with self._connections.write() as connection:
            family: list[str] = []
            # Each turn locks the family that it found; the next turn finds a retry that
            # was being inserted meanwhile. A file that was being added meanwhile is
            # found by the update, which begins with all of them locked.
            while len(found := await family_of(connection, session_id)) > len(family):
                family = found
                await connection.execute(select(_s.id).where(_s.id.in_(family)).order_by(_s.id).with_for_update())
            works = select(_s.checkpoint, _s.expires_at).where(_s.id.in_(family), LIVING, _s.checkpoint.is_not(None))
            kept = [(row[0], row[1]) for row in await connection.execute(works)]
            cleanups = await add_cleanups(connection, CleanupKind.FORGET, kept)
            result = await connection.execute(
                update(tables.sessions)
                .where(_s.id.in_(family), LIVING)
                .values(expires_at=database_time(), checkpoint=None)
                .returning(*SESSION_COLUMNS)
            )
            deleted = [to_session(row) for row in result.all()]
            await add_tombstones(connection, [id_hash(each.id) for each in deleted], GoneReason.DELETED)
        return Deleted(deleted, cleanups)

    async def leave_tombstones(self, hashes: Sequence[str], reason: GoneReason) -> None:
        """Leave a tombstone of each session that has just become unreadable."""
        async with self._connections.write() as connection:
            for start in range(0, len(hashes), TOMBSTONES_A_STATEMENT):
                await add_tombstones(connection, hashes[start : start + TOMBSTONES_A_STATEMENT], reason)

    async def note_delivered(self, handed: Mapping[str, float]) -> dict[str, datetime]:
        """Write the time at which each ended session was first handed to a client.

        ``handed``: Unix seconds of the database's clock by session id; some hundreds at
        a time. The first time that is written stands. Return the end of each session
        that had none.
        """
        async with self._connections.write() as connection:
            unnoted = (
                select(_s.id, _s.finished_at)
                .where(_s.id.in_(sorted(handed)), _s.finished_at.is_not(None), _s.delivered_at.is_(None))
                .order_by(_s.id)
            )
            ended = {str(row[0]): row[1] for row in await connection.execute(unnoted)}
            if ended:
                now = self._clock.now()
                await connection.execute(
                    update(tables.sessions)
                    .where(_s.id == bindparam("session"), _s.delivered_at.is_(None))
                    .values(delivered_at=database_time(bindparam("offset", type_=Float))),
                    [{"session": session_id, "offset": handed[session_id] - now} for session_id in ended],
                )
        return ended

    async def count_enqueue(self, session_id: str, *, seq: int, enqueues: int) -> Session | None:
        """Count one more enqueue of a waiting session: the n of its next job id.

        Return None if another process counted it, or the session moved on.
        """
        async with self._connections.write() as connection:
            result = await connection.execute(
                update(tables.sessions)
                .where(_s.id == session_id, _s.seq == seq, _s.enqueues == enqueues, LIVING)
                .values(enqueues=enqueues + 1)
                .returning(*SESSION_COLUMNS)
            )
            row = result.one_or_none()
        return None if row is None else to_session(row)

    async def erase(self, session_ids: Collection[str]) -> list[Session]:
        """Remove sessions with all rows about them; return the rows of the sessions.

        Their tombstones were left before, when they became unreadable. What an upstream
        keeps of them is to be forgotten.
        """
        if not session_ids:
            return []
        async with self._connections.write() as connection:
            result = await connection.execute(
                delete(tables.sessions).where(_s.id.in_(sorted(session_ids))).returning(*ROW_COLUMNS, _s.checkpoint)
            )
            found = result.all()
            if not found:
                return []
            rows = [to_session(row) for row in found]
            await add_cleanups(connection, CleanupKind.FORGET, [(row[-1], row.expires_at) for row in found])
            ids = [session.id for session in rows]
            # A statement of its own: it sees what was committed while the first waited
            # for a lock.
            of_them = tables.files.c.session_id.in_(ids)
            removed = await connection.execute(
                delete(tables.files).where(of_them).returning(tables.files.c.session_id, *FILE_COLUMNS)
            )
            files: dict[str, list[StoredFile]] = {}
            for session_id, *values in removed.all():
                files.setdefault(session_id, []).append(to_file(values))
            for table in (tables.events, tables.deliveries):
                await connection.execute(delete(table).where(table.c.session_id.in_(ids)))
        return [replace(session, files=tuple(sorted(files.get(session.id, ())))) for session in rows]


def _created_data(session: Session, *, seed_chosen: bool) -> EventData:
    """Return the data of a session's first event; files are named by their keys."""
    inputs = session.inputs
    named = {
        "input": next((file.key for file in inputs), None),
        "garment": next((file.key for file in inputs if file.role == "garment"), None),
        "inputs": files_data(inputs),
        "params": session.params,
        "seed": session.seed,
        "seed_chosen": seed_chosen or None,
        "retry_of": session.retry_of,
        "copy_of": session.copy_of,
    }
    return {name: value for name, value in named.items() if value is not None}


def _values(new: NewSession) -> dict[str, Any]:
    """Return the values of a new session that are not times."""
    return {
        "id": new.id,
        "owner": new.owner,
        "status": Status.CREATED.value,
        "seq": 1,
        "attempt": 0,
        "burnt": 0,
        "enqueues": 1,
        "cancel_requested": False,
        "processor": new.processor,
        "params": to_json(new.params),
        "seed": new.seed,
        "error_retryable": False,
        "request_id": new.request_id,
        "idempotency_key": new.idempotency_key,
        "idempotency_fingerprint": new.idempotency_fingerprint,
        "retry_of": new.retry_of,
        "copy_of": new.copy_of,
        "stored_bytes": sum(file.bytes for file in new.files),
        "address_hash": new.address_hash,
        "deadline_seconds": new.deadline_seconds,
        "retention_seconds": new.retention_seconds,
        "fixed_expires_at": new.expires_at,
    }
