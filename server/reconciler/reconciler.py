"""A pass over all sessions that stand still: the reason why every session ends.

Theory of operation
===================

Every other part of the product reacts to an event: an upload, a claim, a result, a
request to delete. Any of these may be lost half-way, because a process was killed, a
network was cut or Redis lost its data. The reconciler reacts to time alone. It
needs neither Redis nor a living worker, only the database, which is the truth.

*Where it runs.* Each web and worker process has one (:mod:`.maintenance`), and one of
them works at a time, by a lease in the database (:mod:`.chores`). The lease only saves
work. Correctness never depends on it: every change below is a conditional statement,
so two passes at the same time do everything once.

*The work of a pass*, the urgent part first:

1. A session past its deadline fails with ``timeout``.
2. A session whose worker let its lease lapse goes back to the queue, or fails with
   ``worker_lost`` when its attempts are used up, or is cancelled if that was requested
   (both :mod:`.lost_leases`).
3. A waiting session without a job is enqueued again (:mod:`.lost_jobs`).
4. A session that has expired, or that a client deleted, is ended: its tombstone is
   left and its clients are notified. Then its files and its row are removed
   (:mod:`.expiry`).
5. Work upstream that a session has left is enqueued to be stopped or deleted.
6. Now and then, old tombstones are deleted, and cleanups whose time is over.

Steps 1 and 2 are never cut short by the others. Steps 3 and 4 each have a budget
(:mod:`.budget`); work that is left over makes the next pass follow at once, and that
pass begins with step 1 again. One session that cannot be helped delays no other
(:mod:`.failure_guard`).

*When the next pass runs.* At the latest after ``RECONCILE_SECONDS``, and earlier if the
database says that a lease, deadline or expiry ends before that. Ends that the last pass
has already seen do not count: a session that cannot be erased must not make the process
spin.

*Whose clock.* All ends are compared with the database's clock, in the statement that
makes the change. This process's reading of it decides only when to look.

*A lapsed lease proves nothing* if its worker could not have renewed it: the database
was unavailable, all machines stood still, or the clock was set. :mod:`.disturbances`
notices each of these, from this process's own uses of the database, and then extends
every lease once instead of taking sessions from living workers. The rule ends a pass in
the middle, too: a page of due sessions that was read during a disturbance is dropped.
Leases that were extended and not renewed since are not extended again, so the sessions
of a dead worker come back however often the database goes down.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from server.adapters.database.clock import DatabaseClock
from server.adapters.database.due import DueSessions
from server.adapters.database.upkeep import TOMBSTONES_AT_ONCE, Upkeep
from server.reconciler import timing
from server.reconciler.disturbances import Disturbances
from server.reconciler.expiry import Expiry
from server.reconciler.lost_jobs import LostJobs
from server.reconciler.lost_leases import LostLeases
from server.sessions.upstream_cleaning import UpstreamCleaning


class Reconciler:
    """Runs the passes, and says when the next one is due.

    State: the time of the last pass, and whether it came to the end of its work.
    """

    def __init__(
        self,
        *,
        due: DueSessions,
        upkeep: Upkeep,
        database_clock: DatabaseClock,
        disturbances: Disturbances,
        lost_leases: LostLeases,
        lost_jobs: LostJobs,
        expiry: Expiry,
        cleaning: UpstreamCleaning,
    ) -> None:
        self._due = due
        self._upkeep = upkeep
        self._database_clock = database_clock
        self._disturbances = disturbances
        self._lost_leases = lost_leases
        self._lost_jobs = lost_jobs
        self._expiry = expiry
        self._cleaning = cleaning
        self._pass_at: datetime | None = None
        self._left_over = False
        """Whether the last pass did not come to the end of its work."""
        self._tombstones_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Reconciler pass_at={self._pass_at} left_over={self._left_over}>"

    async def maintain(self) -> None:
        """Run one pass. Raises Unavailable if the database is."""
        with self._disturbances.using_database():
            await self._database_clock.synchronize()
            self._disturbances.note_use()
            await self._reconcile()

    async def stop(self) -> None:
        """End the removal of expired sessions, which may go on between the passes."""
        await self._expiry.stop()

    async def until_due(self) -> float:
        """Return the seconds until the next pass should run.

        That is the next end that the last pass has not seen; 0 if it left work over.
        Raises Unavailable.
        """
        if self._left_over:
            return 0.0
        due = await self._due.next_due(self._pass_at)
        if due is None:
            return timing.RECONCILE_SECONDS
        return max(0.1, due.timestamp() - self._database_clock.now() + 0.005)

    async def _reconcile(self) -> None:
        await self._disturbances.grant_leases()
        self._pass_at = datetime.fromtimestamp(self._database_clock.now() - timing.CLOCK_SECONDS, UTC)
        self._left_over = False
        await self._lost_leases.move_stalled_sessions()
        self._left_over |= await self._lost_jobs.enqueue_again()
        self._left_over |= await self._expiry.erase_expired()
        await self._cleaning.enqueue_due()
        now = asyncio.get_running_loop().time()
        if now - self._tombstones_at >= timing.TOMBSTONE_PERIOD_SECONDS:
            self._tombstones_at = now
            while await self._upkeep.delete_old_tombstones() == TOMBSTONES_AT_ONCE:
                await asyncio.sleep(timing.CHORE_PAUSE_SECONDS)
            await self._cleaning.remove_overdue()
