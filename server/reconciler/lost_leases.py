"""Requeues or fails sessions past a deadline, or whose worker lost its lease.

When a lost lease goes back to the queue: the lease of a running session has lapsed by
the database's clock, no disturbance is pending (:mod:`.disturbances`), and its worker
has not renewed it when the change is committed. The session then waits again, or fails
with ``worker_lost`` when its attempts are used up, or is cancelled if that was
requested (:mod:`server.sessions.requeueing`). A session past its deadline fails with
``timeout`` instead.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from server.adapters.database.due import DueSessions
from server.domain.session import Session
from server.reconciler.disturbances import Disturbances
from server.reconciler.failure_guard import FailureGuard
from server.sessions.requeueing import Requeueing
from server.sessions.transitions import Transitions
from server.telemetry import metrics
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Status

log = logging.getLogger("tryon.reconciler")

TAKEN_AT_ONCE: Final = 20
"""Number of sessions that are taken back in one commit.

On SQLite each commit may have to wait for all other writers: one for every session of
a worker that died under load took 4 s for ten.
"""


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
            with self._disturbances.timing_write():
                timed_out = await self._transitions.time_out([session.id for session in page])
            metrics.reconciled.labels("timeout").inc(len(timed_out))
            self._disturbances.note_use()
            running = [each for each in page if each.id not in timed_out and each.status is Status.PROCESSING]
            for start in range(0, len(running), TAKEN_AT_ONCE):
                if not self._disturbances.pending:
                    await self._take_back(running[start : start + TAKEN_AT_ONCE])
            page = await self._due.due(after=page[-1])

    async def _take_back(self, sessions: Sequence[Session]) -> None:
        try:
            await self._requeue(sessions)
        except Unavailable:
            raise  # a wait proves nothing: a worker could not renew its lease meanwhile
        except Exception:  # the call for each session logs it
            log.debug("Some sessions could not be taken back together", exc_info=True)
            for session in sessions:
                if not self._disturbances.pending:
                    await self._failure_guard.run(session, self._requeue([session]))
        else:
            self._failure_guard.note_success()

    async def _requeue(self, sessions: Sequence[Session]) -> None:
        with self._disturbances.timing_write():
            taken = await self._requeueing.take_back(sessions, patience=self._disturbances.patience_seconds)
        metrics.reconciled.labels("lease_lost").inc(sum(taken))
