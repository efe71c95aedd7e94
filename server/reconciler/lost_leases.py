"""Requeues or fails sessions past a deadline, or whose worker lost its lease.

When a lost lease goes back to the queue: the lease of a running session has lapsed by
the database's clock, no disturbance is pending (:mod:`.disturbances`), and its worker
has not renewed it when the change is committed. The session then waits again, or fails
with ``worker_lost`` when its attempts are used up, or is cancelled if that was
requested (:mod:`server.sessions.requeueing`). A session past its deadline fails with
``timeout`` instead.
"""

from __future__ import annotations

from server.adapters.database.due import DueSessions
from server.domain.session import Session
from server.reconciler.disturbances import Disturbances
from server.reconciler.failure_guard import FailureGuard
from server.sessions.requeueing import Requeueing
from server.sessions.transitions import Transitions
from server.telemetry import metrics
from tryon.protocol.states import Status


class LostLeases:
    """Moves the sessions whose deadline has passed or whose lease lapsed; stateless."""

    def __init__(
        self,
        *,
        due: DueSessions,
        transitions: Transitions,
        requeueing: Requeueing,
        disturbances: Disturbances,
        failure_guard: FailureGuard,
    ) -> None:
        self._due = due
        self._transitions = transitions
        self._requeueing = requeueing
        self._disturbances = disturbances
        self._failure_guard = failure_guard

    async def move_stalled_sessions(self) -> None:
        """Fail sessions past their deadline, and take back sessions whose lease lapsed.

        Page by page: many sessions in good order must not hide one that needs help. A
        page that was read in or after a disturbance proves nothing, and ends this.
        Raises Unavailable.
        """
        page = await self._due.due()
        while page:
            self._disturbances.note_use()
            if self._disturbances.pending:
                await self._disturbances.grant_leases()
                return
            timed_out = await self._transitions.time_out([session.id for session in page])
            metrics.reconciled.labels("timeout").inc(len(timed_out))
            self._disturbances.note_use()
            for session in page:
                running = session.id not in timed_out and session.status is Status.PROCESSING
                if running and not self._disturbances.pending:
                    await self._failure_guard.run(session, self._take_back(session))
            page = await self._due.due(after=page[-1])

    async def _take_back(self, session: Session) -> None:
        if await self._requeueing.take_back(session):
            metrics.reconciled.labels("lease_lost").inc()
