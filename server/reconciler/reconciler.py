"""What happens by the clock alone: whatever stands still is moved on or ended, whatever
has expired is erased, and what a killed process has left lying about is swept up.

A timer in every web and worker process; one process works at a time, by a lease in the
database. It needs neither Redis nor a living worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from server.adapters.database.database import Database
from server.adapters.files.port import Entry, Files
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.queue import ArqQueue, QueueAway
from server.config.settings import Config
from server.domain.disturbances import Disturbance, Use, disturbance
from server.domain.session import Session, valid_session_id
from server.sessions.sessions import Sessions, may_have_unnamed_outputs, session_of
from server.telemetry import metrics
from tryon.protocol import errors
from tryon.protocol.states import GoneReason, Status

log = logging.getLogger("tryon.reconciler")

UNQUEUED_SECONDS: Final = 5.0
"""A session that waits longer than this without a job in the queue is queued again."""

QUEUEING_SECONDS: Final = 1.0
"""From a session's commit to its job at the most, unless Redis is away."""

ENQUEUE_SECONDS: Final = 1.0
"""How often a process tries to queue what it could not, while there is something."""

RECONCILE_SECONDS: Final = 2.0
"""The reconciler wakes at the latest after this; one process at a time, by a database
lease.
"""

PASS_SECONDS: Final = 1.0
"""After this a pass leaves the rest of what can wait (erasing, queueing again) to the
next one, which follows at once and looks for those that cannot first.
"""

EXPIRED_AT_ONCE: Final = 1000
"""So many expired sessions are read in one pass, besides those that cannot be erased;
it erases what it has time for.
"""

CLOCK_SECONDS: Final = 0.1
"""How far this process's idea of the database's clock may be off."""

STUCK_SECONDS: Final = 30.0
"""A session whose files cannot be deleted is tried again at the latest after this."""

FORGET_SECONDS: Final = 10.0
"""How often the hashes of erased sessions are looked through for those that have done
their work.
"""

CHORE_SECONDS: Final = 20.0
"""Who does a chore says so at least this often; another process takes over when it has
not for twice as long.
"""

END_SECONDS: Final = 1.0
"""What is still to be put down when a process ends may take so long."""

DISTURBANCES: Final[dict[Disturbance, str]] = {
    "outage": "the database could not be used",
    "late": "the database or this process stood still",
    "clock": "the database's clock was set",
}

SCRUB_SECONDS: Final = 0.5
"""So soon after an erasure SQLite's log is emptied; many erasures at once are one."""

TRACES_SECONDS: Final = 5.0
"""How often Redis is asked again to forget what was erased while it was away, and
whether its file must be rewritten.
"""

ORPHAN_SECONDS: Final = 3600.0
"""A file without a row is an upload in flight until it is this old, then an orphan."""


@dataclass(frozen=True, slots=True)
class _Stuck:
    """When to try again, on the loop's clock, and how long that was put off."""

    at: float
    seconds: float


class Reconciler:
    """Built once per process by :func:`server.services.open_services`; works while
    :meth:`maintenance` is open.
    """

    def __init__(
        self, *, config: Config, database: Database, files: Files, bus: RedisBus, queue: ArqQueue, sessions: Sessions
    ) -> None:
        self._config = config
        self._clock = database.clock
        self._writing = database.writing
        self._reading = database.reading
        self._due = database.due
        self._upkeep = database.upkeep
        self._chore_leases = database.leases
        self._files = files
        self._bus = bus
        self._queue = queue
        self._sessions = sessions
        self._granted: deque[tuple[datetime, datetime]] = deque(maxlen=16)
        """Between which times the leases end that were granted, each time of late."""
        self._queue_lost = True
        """Whether Redis may have forgotten what was queued since it was last looked at.
        """
        self._hurry_until = float("-inf")
        """Until then nobody waits long for a job that is not there."""
        self._stuck: dict[str, _Stuck] = {}
        """Expired sessions that could not be erased."""
        self._pass_at: datetime | None = None
        self._left_over = False
        """Whether the last pass did not come to the end of its work."""
        self._last_use: Use | None = None
        self._database_failed = False
        self._disturbed: tuple[Disturbance, float] | None = None
        """What may have kept workers from renewing their leases, and when this process
        noticed; until it has granted them another period, or they have had one.
        """
        self._forgot_at = float("-inf")
        self._queue_again_at = float("-inf")
        self._leases: set[str] = set()
        """Chores whose lease this process may hold."""
        self.process_name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(2)}"

    async def maintain(self) -> None:
        """One pass of the reconciler: whatever stands still is moved on or ended.

        Raises Unavailable.

        One session that cannot be helped keeps no other from it; and the living come
        before the dead. After a time in which workers may have been unable to renew
        their leases, each is granted one more period first.
        """
        with self._using_database():
            await self._clock.synchronize()
            self._note_use()
            await self._reconcile()

    async def _reconcile(self) -> None:
        if self._disturbed is not None:
            await self._grant_leases()
        self._pass_at = datetime.fromtimestamp(self._clock.now() - CLOCK_SECONDS, UTC)
        self._left_over = False
        await self._help_the_living()
        await self._queue_again()
        await self._erase_expired()
        if asyncio.get_running_loop().time() - self._forgot_at >= FORGET_SECONDS:
            self._forgot_at = asyncio.get_running_loop().time()
            await self._upkeep.delete_old_tombstones()

    async def _help_the_living(self) -> None:
        """Past the deadline -> failed; lease lapsed -> created again, or its end.

        What is the case the database says, in the statement that changes it.

        Page by page: many that wait in good order must not hide one that needs help.
        What was read in or after a disturbance proves nothing: that ends it.
        """
        page = await self._due.due()
        while page:
            self._note_use()
            if self._disturbed is not None:
                await self._grant_leases()
                return
            timed_out = await self._sessions.time_out([session.id for session in page])
            metrics.reconciled.labels("timeout").inc(len(timed_out))
            self._note_use()
            for session in page:
                if self._disturbed is None and session.id not in timed_out and session.status is Status.PROCESSING:
                    await self._alone(session, self._take_back(session))
            page = await self._due.due(after=page[-1])

    async def _alone(self, session: Session, help: Coroutine[Any, Any, None]) -> bool:
        """Whether it went well.

        Raises Unavailable if that is the database's fault: then it would be so for all.
        """
        try:
            await help
        except Exception as error:
            known = isinstance(error, errors.TryOnError)
            log.warning("Session %s must wait: %s", session.id, error, exc_info=None if known else error)
            await self._reading.check()
            return False
        self._note_use()
        return True

    async def _take_back(self, session: Session) -> None:
        if await self._sessions.take_back(session):
            metrics.reconciled.labels("lease_lost").inc()

    async def _erase_expired(self) -> None:
        """Those whose files could not be deleted are tried again later and later, at
        most :data:`STUCK_SECONDS` apart.
        """
        now = asyncio.get_running_loop().time
        limit = EXPIRED_AT_ONCE + len(self._stuck)
        expired = await self._due.expired(limit=limit)
        self._stuck = {each.id: self._stuck[each.id] for each in expired if each.id in self._stuck}
        due = [each for each in expired if each.id not in self._stuck or self._stuck[each.id].at <= now()]
        if not due:
            return
        log.info("Found %d expired sessions to clean up", len(due))
        deleted = await self._sessions.deleted_among(due)
        outputs = await self._unnamed_outputs(due)
        over = self._budget()  # begins when the reading is done: else a large system would only ever read
        for session in due:
            reason = GoneReason.DELETED if session.id in deleted else GoneReason.EXPIRED
            erasing = self._sessions.erase(session, reason, outputs=outputs.get(session.id))
            if await self._alone(session, erasing):
                self._stuck.pop(session.id, None)
            else:
                before = self._stuck.get(session.id)
                seconds = min(before.seconds * 2, STUCK_SECONDS) if before else 1.0
                self._stuck[session.id] = _Stuck(now() + seconds, seconds)
            if over():
                return
        self._left_over |= len(expired) == limit

    async def _unnamed_outputs(self, sessions: Collection[Session]) -> dict[str, list[str]]:
        """What attempts that died may have stored: all of it by one listing.

        Empty if that fails: then each looks for itself, and waits.
        """
        ids = [each.id for each in sessions if may_have_unnamed_outputs(each)]
        outputs: dict[str, list[str]] = {id: [] for id in ids}
        try:
            for key in await self._files.outputs_of(ids) if ids else []:
                outputs[session_of(key)].append(key)
        except errors.Unavailable:
            return {}
        return outputs

    def _budget(self) -> Callable[[], bool]:
        """Of time, for what can wait: whether it is used up, and so some of it is left
        to the next pass.
        """
        ends = time.monotonic() + PASS_SECONDS

        def over() -> bool:
            used_up = time.monotonic() >= ends
            self._left_over |= used_up
            return used_up

        return over

    # -- what may have kept workers from renewing their leases -------------------------

    @contextlib.contextmanager
    def _using_database(self) -> Iterator[None]:
        try:
            yield
        except errors.Unavailable:
            self._database_failed = True
            raise

    def _note_use(self) -> None:
        """The database was used with success just now; was it all the time since the
        last use?
        """
        now = Use(time.monotonic(), self._clock.now())
        lease_seconds = self._config.lease_seconds
        found = disturbance(
            self._last_use,
            now,
            failed=self._database_failed,
            calm_seconds=max(lease_seconds / 3, 2 * RECONCILE_SECONDS),  # a heartbeat may come so late
        )
        self._last_use, self._database_failed = now, False
        if found is not None:
            self._disturbed = (found, now.at)
        elif self._disturbed is not None and now.at - self._disturbed[1] > lease_seconds:
            self._disturbed = None  # whoever lives has renewed its lease since

    async def _grant_leases(self) -> None:
        """An outage of the database, or of all machines, must not look like the death
        of all workers. But who was granted a period and has not renewed its lease since
        is granted no other: one disturbance after the next would keep the sessions of a
        dead worker for ever, and one that lives tries again every second.
        """
        assert self._disturbed is not None
        why, _ = self._disturbed
        if why == "clock":
            self._granted.clear()  # times of another clock
            await self._writing.bound_ends(
                deadline_seconds=self._config.deadline_seconds, retention_seconds=self._config.retention_seconds
            )
        granted, ends = await self._writing.renew_all(lease_seconds=self._config.lease_seconds, but=self._granted)
        self._disturbed = None
        if ends is not None:
            self._granted.append(ends)
        metrics.reconciled.labels("lease_granted").inc(granted)
        if granted:
            log.warning("Granted %d sessions one more period of their leases: %s", granted, DISTURBANCES[why])

    async def _queue_again(self) -> None:
        """Those without a job: the enqueue failed, Redis forgot it, or a worker took it
        and died before its claim.

        One question for all, and not in every pass: a long queue is read as a whole.
        But when Redis is back from where it may have lost jobs, those who wait are
        looked at when they are a second old (younger ones are just being queued): the
        last ones before it went would else wait for seconds while the workers have
        nothing to do.
        """
        now = asyncio.get_running_loop().time()
        try:
            if (
                not await self._queue.remembers() or self._queue_lost
            ):  # who is too young for one pass is not for the next
                self._queue_lost, self._hurry_until = False, now + QUEUEING_SECONDS + RECONCILE_SECONDS
            hurry = now < self._hurry_until
            if now < self._queue_again_at and not hurry:
                return
            self._queue_again_at = now + UNQUEUED_SECONDS - RECONCILE_SECONDS
            waiting = await self._due.long_waiting(seconds=QUEUEING_SECONDS if hurry else UNQUEUED_SECONDS)
            queued = set(await self._queue.order(1_000_000)) if waiting else set()
        except QueueAway:
            self._queue_lost = True
            return
        over = self._budget()
        for session_id, seq, enqueues in waiting:
            if session_id in queued:
                continue
            again = await self._writing.count_enqueue(session_id, seq=seq, enqueues=enqueues)
            if again is not None:
                if not await self._sessions.enqueue_again(again):
                    self._queue_lost = True
                    return
                metrics.reconciled.labels("queued_again").inc()
            self._note_use()
            if over():
                self._queue_again_at = float("-inf")
                return

    async def _forget_traces(self) -> None:
        """What Redis could not forget while it was away; and its append-only file,
        which tells of everything.
        """
        if await self._sessions.forget_erased():
            await self._bus.rewrite_log()

    async def _scrub_for_ever(self) -> None:
        while True:
            await self._sessions.erased.wait()
            await asyncio.sleep(SCRUB_SECONDS)
            self._sessions.erased.clear()
            try:
                if not await self._upkeep.scrub():
                    self._sessions.erased.set()
            except errors.Unavailable:
                self._sessions.erased.set()
            except Exception:
                log.exception("SQLite's log could not be emptied")

    async def cleanup(self) -> None:
        """The hourly broom: files without a session, unfinished files of killed
        writers; events and Redis keys of sessions that are no more. What it finds, a
        process that was killed at the wrong moment has left.
        """
        page = await self._files.list_page()
        while True:
            await self._delete_orphans(page.entries)
            if page.after is None:
                break
            page = await self._files.list_page(after=page.after)
        if strays := await self._upkeep.delete_stray_events():
            log.info("Deleted %d events without a session", strays)
        await self._sweep_redis()
        self._sessions.erased.set()

    async def _delete_orphans(self, entries: list[Entry]) -> None:
        """Delete files without a session.

        A result is stored after its row, so one without a row is an orphan at any age.
        """
        old = [
            each
            for each in entries
            if each.age_seconds > ORPHAN_SECONDS or (each.key.startswith("outputs/") and not each.unfinished)
        ]
        living = await self._reading.ids_among({session_of(each.key) for each in old})
        orphans = [each.key for each in old if each.unfinished or session_of(each.key) not in living]
        for key in await self._files.delete(orphans):
            log.info("Deleted orphaned file: %s", key)

    async def _sweep_redis(self) -> None:
        with contextlib.suppress(QueueAway):
            known = await self._bus.remembered() | {
                id for id in await self._queue.order(1_000_000) if valid_session_id(id)
            }
            if strays := known - await self._reading.ids_among(known):
                await self._queue.forget_waiting(strays)
                await self._bus.forget(strays)
                log.info("Deleted what Redis kept of %d sessions that are no more", len(strays))

    @contextlib.asynccontextmanager
    async def maintenance(self) -> AsyncIterator[None]:
        """While open, this process takes part in reconciling and cleaning; a database
        lease lets one do it at a time.
        """
        async with asyncio.TaskGroup() as group:
            chores = [
                group.create_task(self._chore("reconcile", self.maintain, RECONCILE_SECONDS, self._until_due)),
                group.create_task(self._chore("cleanup", self.cleanup, self._config.cleanup_seconds)),
                group.create_task(self._chore("traces", self._forget_traces, TRACES_SECONDS, shared=False)),
                group.create_task(self._scrub_for_ever(), name="scrub"),
                group.create_task(
                    self._chore("discard", self._sessions.discard_undecided, RECONCILE_SECONDS, shared=False)
                ),
                group.create_task(
                    self._chore("enqueue", self._sessions.enqueue_unqueued, ENQUEUE_SECONDS, shared=False)
                ),
            ]
            try:
                yield
            finally:
                for chore in chores:
                    chore.cancel()
                await asyncio.wait(chores)
                with contextlib.suppress(errors.Unavailable, TimeoutError):
                    async with asyncio.timeout(END_SECONDS):
                        while self._leases:  # whoever is left need not wait until they lapse
                            await self._chore_leases.drop(self._leases.pop(), owner=self.process_name)
                        if self._sessions.erased.is_set():
                            await self._upkeep.scrub()

    async def _until_due(self) -> float:
        """Until the next end that the last pass has not seen: what it could not help
        does not call for the next one.
        """
        if self._left_over:
            return 0.0
        due = await self._due.next_due(self._pass_at)
        return RECONCILE_SECONDS if due is None else max(0.1, due.timestamp() - self._clock.now() + 0.005)

    async def _chore(
        self,
        name: str,
        work: Callable[[], Coroutine[Any, Any, None]],
        every_seconds: float,
        until_next: Callable[[], Coroutine[Any, Any, float]] | None = None,
        *,
        shared: bool = True,
    ) -> None:
        """``shared``: by one process at a time, which renews its lease more often than
        it works if that is seldom. The others look twice as often, so that they take
        over soon when it is killed.
        """
        now = asyncio.get_running_loop().time
        turn_seconds = min(every_seconds, CHORE_SECONDS)
        lease_seconds = turn_seconds * 2
        work_at = now()
        while True:
            wait = turn_seconds / 2
            try:
                if not shared or await self._holds(name, seconds=lease_seconds):
                    if now() >= work_at:
                        work_at = now() + every_seconds
                        async with self._holding_on(name, lease_seconds) if shared else contextlib.nullcontext():
                            await work()
                        if until_next is not None:
                            work_at = now() + min(every_seconds, await until_next())
                    wait = min(turn_seconds, max(0.0, work_at - now()))
            except errors.Unavailable as error:
                log.warning("%s: %s", name, error.detail)
                work_at = now() + turn_seconds
            except Exception:
                log.exception("%s failed and will be tried again", name)
                work_at = now() + turn_seconds
            await asyncio.sleep(wait)

    @contextlib.asynccontextmanager
    async def _holding_on(self, name: str, seconds: float) -> AsyncIterator[None]:
        """Renew the lease meanwhile: there may be much to do, and two at it would be
        slower.
        """

        async def renew() -> None:
            while True:
                await asyncio.sleep(seconds / 3)
                with contextlib.suppress(errors.Unavailable):
                    await self._chore_leases.take(name, owner=self.process_name, seconds=seconds)

        renewing = asyncio.create_task(renew(), name=f"lease of {name}")
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})

    async def _holds(self, name: str, *, seconds: float) -> bool:
        self._leases.add(name)  # before the commit: it must be dropped whatever becomes of the answer
        with self._using_database():
            await self._clock.synchronize()
            began = time.monotonic()
            held = await self._chore_leases.take(name, owner=self.process_name, seconds=seconds)
            # A heartbeat had to wait as long: with short leases, longer than one lasts.
            self._database_failed |= time.monotonic() - began > self._config.lease_seconds / 3
        self._note_use()
        if not held:
            self._leases.discard(name)
        return held
