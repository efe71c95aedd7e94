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
``erase``, ``note_delivered``) or skips the locked ones (``time_out``, ``erase`` by the
expiry, ``renew_all``, ``count_enqueues``, and ``transition_each`` of several).
``bound_ends`` changes deadlines and expiries in any order; a deadlock is Unavailable,
and the reconciler tries again.

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

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from sqlalchemy import Float, and_, bindparam, delete, func, insert, not_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.adapters.database import engine, tables
from server.adapters.database.changes import Begin, Change, Deleted, Fail, Moved, NewSession, SavedUsage
from server.adapters.database.cleanups import CleanupKind, add_cleanups
from server.adapters.database.clock import DatabaseClock
from server.adapters.database.deliveries import add_delivery
from server.adapters.database.due import Queued
from server.adapters.database.engine import Connections
from server.adapters.database.errors import mapped_insert_errors
from server.adapters.database.new_sessions import created_event, session_values
from server.adapters.database.quotas import take_quota
from server.adapters.database.rows import (
    FILE_COLUMNS,
    LIVING,
    ROW_COLUMNS,
    SESSION_COLUMNS,
    UNFINISHED,
    add_files,
    family_of,
    to_file,
    to_session,
)
from server.adapters.database.tables import database_time, statement_time
from server.adapters.database.tombstones import add_tombstones
from server.adapters.database.transitions import add_event, move
from server.adapters.database.usage import usage_of
from server.adapters.database.usage_events import METERED, TOLD, add_usage_events, cut_short
from server.domain.session import Session
from server.domain.stored_files import StoredFile
from tryon.protocol.errors import NotFound
from tryon.protocol.states import TRANSITIONS, GoneReason, Status

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
        RateLimited if its owner or its address has all that ``new.allowance`` or
        ``new.quota`` grants.
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
            row = await connection.execute(_INSERT_SESSION, session_values(new))
            session = replace(to_session(row.one()), files=new.files)
            if new.quota is not None:
                await take_quota(connection, new, new.quota, now=self._clock.now())
            await add_files(connection, session.id, new.files)
            await add_delivery(connection, new)
            await add_event(connection, created_event(session, seed_chosen=new.seed_chosen))
        return session

    async def transition(self, change: Change) -> Moved | None:
        """Try one transition.

        Return None, with nothing changed, if the table of transitions or one of its
        conditions forbids it.
        """
        return (await self.transition_each([change]))[0]

    async def transition_each(self, changes: Sequence[Change], *, patience: float | None = None) -> list[Moved | None]:
        """Try one transition of each of some sessions, in one commit.

        The conditions of each are its own; an error undoes all. Change nothing if the
        database let this wait for more than ``patience`` seconds. A session that
        another transaction is changing is skipped, but for one alone without patience.
        """
        moved: list[Moved | None] = [None] * len(changes)
        allowed = [n for n, change in enumerate(changes) if (change.from_status, change.outcome.event) in TRANSITIONS]
        if allowed:
            claims = any(isinstance(change.outcome, Begin) for change in changes)
            seconds, began = engine.READ_SECONDS if claims else None, time.monotonic()  # a claim's session waits
            async with self._connections.write(seconds=seconds) as connection:
                if patience is not None and time.monotonic() - began > patience:
                    return moved
                wanted = {changes[n].session_id for n in allowed}
                waits = len(wanted) == 1 and patience is None  # then its own statement waits for the row
                free = wanted if waits else await _lock_free(connection, wanted)
                for n in allowed:
                    if changes[n].session_id in free:
                        moved[n] = await _move_one(connection, changes[n])
        return moved

    async def time_out(
        self, session_ids: Collection[str], outcome: Fail, *, actor: str, usage: SavedUsage | None = None
    ) -> list[Moved]:
        """Fail the sessions among these that have not ended by their deadline.

        ``usage``: returns what the attempts that run have used. A row that another
        transaction is changing is skipped, for the next time.
        """
        moved = []
        async with self._connections.write() as connection:
            found = await _lock_overdue(connection, session_ids)
            for before in (Status.CREATED, Status.PROCESSING):
                ids = [session_id for session_id, status in found if status == before.value]
                if ids:
                    rows = and_(_s.id.in_(ids), _s.status == before.value)
                    moved += await move(connection, rows, before, outcome, actor=actor, usage=usage)
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

        Leases that end between two of the times in ``but`` are left alone, and those in
        rows that another transaction is changing: as a rule it renews them. Return how
        many were extended, and the earliest and latest time at which they end now.
        """
        lease = _s.lease_expires_at
        free = select(_s.id).where(_PROCESSING, *(not_(lease.between(*times)) for times in but))
        free = free.order_by(_s.id).with_for_update(skip_locked=True)
        async with self._connections.write() as connection:
            result = await connection.execute(
                update(tables.sessions)
                .where(_s.id.in_(free))
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

    async def mark_deleted(
        self, session_id: str, *, id_hash: Callable[[str], str], usage: SavedUsage | None = None
    ) -> Deleted:
        """Expire a session and every retry of the same photo now, and leave tombstones.

        :meth:`erase` removes them. What an upstream keeps of them is to be forgotten.
        ``usage``: as in :meth:`time_out`.
        """
        async with self._connections.write() as connection:
            family: list[str] = []
            # Each turn locks the family that it found; the next turn finds a retry that
            # was being inserted meanwhile. A file that was being added meanwhile is
            # found by the update, which begins with all of them locked.
            while len(found := await family_of(connection, session_id)) > len(family):
                family = found
                await connection.execute(select(_s.id).where(_s.id.in_(family)).order_by(_s.id).with_for_update())
            works = select(_s.id, _s.checkpoint, _s.expires_at).where(
                _s.id.in_(family), LIVING, _s.checkpoint.is_not(None)
            )
            kept = {row[0]: (row[1], row[2]) for row in await connection.execute(works)}
            cleanups = await add_cleanups(connection, CleanupKind.FORGET, list(kept.values()))
            result = await connection.execute(
                update(tables.sessions)
                .where(_s.id.in_(family), LIVING)
                .values(expires_at=database_time(), checkpoint=None, metered=_s.metered * TOLD)
                .returning(*SESSION_COLUMNS, _s.metered, _s.stored_bytes)
            )
            rows = [(to_session(row), row[-2] == TOLD, row[-1], kept.get(row.id, (None,))[0]) for row in result.all()]
            deleted = [session for session, *_ in rows]
            await add_usage_events(connection, cut_short(rows, GoneReason.DELETED, usage))
            await add_tombstones(connection, [id_hash(each.id) for each in deleted], GoneReason.DELETED)
        return Deleted(deleted, cleanups)

    async def leave_tombstones(self, hashes: Sequence[str], reason: GoneReason) -> None:
        """Leave a tombstone of each session that has just become unreadable."""
        async with self._connections.write() as connection:
            await add_tombstones(connection, hashes, reason)

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

    async def count_enqueues(self, waiting: Sequence[Queued]) -> list[Session]:
        """Count one more enqueue of each of some sessions, the n of its next job id.

        Return those that count: none that moved on, that another process counted, or
        that another transaction is changing.
        """
        counted = []
        async with self._connections.write() as connection:
            free = await _lock_free(connection, {each.session_id for each in waiting})
            for each in [each for each in waiting if each.session_id in free]:
                result = await connection.execute(
                    update(tables.sessions)
                    .where(_s.id == each.session_id, _s.seq == each.seq, _s.enqueues == each.enqueues, LIVING)
                    .values(enqueues=each.enqueues + 1)
                    .returning(*SESSION_COLUMNS)
                )
                counted += [to_session(row) for row in result.all()]
        return counted

    async def erase(
        self, session_ids: Collection[str], *, skip_locked: bool = False, usage: SavedUsage | None = None
    ) -> list[Session]:
        """Remove sessions with all rows about them; return the rows of the sessions.

        Their tombstones were left before, when they became unreadable. What an upstream
        keeps of them is to be forgotten. ``skip_locked``: leave rows that another
        transaction of PostgreSQL has locked. ``usage``: as in :meth:`time_out`.
        """
        if not session_ids:
            return []
        async with self._connections.write() as connection:
            locked: Sequence[str] = sorted(session_ids)
            if not self._connections.sqlite:
                lock = select(_s.id).where(_s.id.in_(locked)).order_by(_s.id)
                locked = (await connection.execute(lock.with_for_update(skip_locked=skip_locked))).scalars().all()
            removal = delete(tables.sessions).where(_s.id.in_(locked))
            columns = (*ROW_COLUMNS, _s.checkpoint, _s.metered, _s.stored_bytes)
            found = (await connection.execute(removal.returning(*columns))).all()
            if not found:
                return []
            rows = [to_session(row) for row in found]
            await add_cleanups(connection, CleanupKind.FORGET, [(row[-3], row.expires_at) for row in found])
            untold = [(each, row[-2] == METERED, row[-1], row[-3]) for each, row in zip(rows, found, strict=True)]
            await add_usage_events(connection, cut_short(untold, GoneReason.EXPIRED, usage))
            ids = [session.id for session in rows]
            # A statement of its own: it sees what was committed while that one waited.
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


async def _lock_free(connection: AsyncConnection, session_ids: Collection[str]) -> set[str]:
    """Lock those of some sessions whose rows are free; return them."""
    chosen = select(_s.id).where(_s.id.in_(sorted(session_ids))).order_by(_s.id).with_for_update(skip_locked=True)
    return set((await connection.execute(chosen)).scalars())


async def _lock_overdue(connection: AsyncConnection, session_ids: Collection[str]) -> list[tuple[str, str]]:
    """Lock those of some sessions that are overdue and free; return id and state."""
    overdue = (
        select(_s.id, _s.status)
        .where(_s.id.in_(sorted(session_ids)), UNFINISHED, _s.deadline_at <= database_time())
        .with_for_update(skip_locked=True)
    )
    return [(row[0], row[1]) for row in await connection.execute(overdue)]


async def _move_one(connection: AsyncConnection, change: Change) -> Moved | None:
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
    moved = await move(
        connection,
        and_(*conditions),
        change.from_status,
        change.outcome,
        actor=change.actor,
        usage=change.usage,
    )
    return moved[0] if moved else None
