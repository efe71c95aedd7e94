"""Enqueues waiting sessions again that have no job in the queue.

The enqueue failed, Redis lost the job, or a worker took it and died before its claim.
"""

from __future__ import annotations

import asyncio
from typing import Final

from server.adapters.database.due import DueSessions
from server.adapters.database.writing import SessionWriter
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue
from server.reconciler import timing
from server.reconciler.budget import Budget
from server.reconciler.disturbances import Disturbances
from server.sessions.queueing import Queueing
from server.system.clock import Clock
from server.telemetry import metrics

COUNTED_AT_ONCE: Final = 50
"""Number of sessions whose enqueue is counted in one commit: on SQLite it may have to
wait for all other writers.
"""


class LostJobs:
    """Enqueues waiting sessions whose job is missing.

    State: whether Redis may have lost jobs, and when the queue is read next.
    """

    def __init__(
        self,
        *,
        due: DueSessions,
        writer: SessionWriter,
        queue: ArqQueue,
        queueing: Queueing,
        disturbances: Disturbances,
        clock: Clock,
    ) -> None:
        self._due = due
        self._writer = writer
        self._queue = queue
        self._queueing = queueing
        self._disturbances = disturbances
        self._clock = clock
        self._queue_lost = True
        """Whether Redis may have lost jobs since it was last asked."""
        self._hurry_until = float("-inf")
        """Until then a session waits only a moment for a missing job."""
        self._next_at = float("-inf")

    def __repr__(self) -> str:
        return f"<LostJobs queue_lost={self._queue_lost}>"

    async def enqueue_again(self) -> bool:
        """Enqueue the sessions without a job; return whether some are left.

        The queue is read as a whole, once for all sessions, and only every
        :data:`timing.UNQUEUED_SECONDS`: it may be long. But after Redis may have lost
        jobs, sessions are looked at when they are a second old (younger ones are just
        being enqueued): the workers have nothing to do meanwhile. Raises Unavailable.
        """
        now = asyncio.get_running_loop().time()
        try:
            if not await self._queue.remembers() or self._queue_lost:
                # A session that is too young for one pass is not for the next.
                hurry_seconds = timing.QUEUEING_SECONDS + timing.RECONCILE_SECONDS
                self._queue_lost, self._hurry_until = False, now + hurry_seconds
            hurry = now < self._hurry_until
            if now < self._next_at and not hurry:
                return False
            self._next_at = now + timing.UNQUEUED_SECONDS - timing.RECONCILE_SECONDS
            age_seconds = timing.QUEUEING_SECONDS if hurry else timing.UNQUEUED_SECONDS
            waiting = await self._due.long_waiting(seconds=age_seconds)
            queued = set(await self._queue.order(1_000_000)) if waiting else set()
        except QueueUnavailable:
            self._queue_lost = True
            return False
        budget = Budget(self._clock)
        lost = [each for each in waiting if each.session_id not in queued]
        for start in range(0, len(lost), COUNTED_AT_ONCE):
            for again in await self._writer.count_enqueues(lost[start : start + COUNTED_AT_ONCE]):
                if not await self._queueing.enqueue_again(again):
                    self._queue_lost = True
                    return False
                metrics.reconciled.labels("queued_again").inc()
                if budget.used_up:  # the next pass finds those that are counted and have no job
                    self._next_at = float("-inf")
                    return True
            self._disturbances.note_use()
        return False
