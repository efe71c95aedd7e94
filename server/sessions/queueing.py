"""Puts a waiting session into the job queue of Redis, after the commit.

The database decides which sessions wait; the queue only wakes workers. So an enqueue
that fails is remembered here and retried. If this process dies before that, the
reconciler enqueues the session. Back to waiting: :mod:`.requeueing`.
"""

from __future__ import annotations

import contextlib
import logging

from server.adapters.database.reading import SessionReader
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue
from server.domain.session import Session
from server.telemetry import metrics
from tryon.protocol.states import Status

log = logging.getLogger("tryon.sessions")


class Queueing:
    """Enqueues waiting sessions, and retries the enqueues that failed.

    State: the sessions that this process could not enqueue.
    """

    def __init__(self, *, queue: ArqQueue, reader: SessionReader) -> None:
        self._queue = queue
        self._reader = reader
        self._unqueued: set[str] = set()

    def __repr__(self) -> str:
        return f"<Queueing unqueued={len(self._unqueued)}>"

    async def enqueue(self, session: Session) -> int:
        """Enqueue a waiting session and return how many jobs wait now.

        0: Redis is unavailable; :meth:`retry_enqueues` tries again.
        """
        try:
            position = await self._queue.enqueue(
                session.id, session.attempt, session.enqueues, score_ms=int(session.created_at.timestamp() * 1000)
            )
        except QueueUnavailable:
            metrics.enqueue_failures.inc()
            if session.id not in self._unqueued:
                log.warning("Session %s could not be enqueued, retrying until Redis is available", session.id)
            self._unqueued.add(session.id)
            return 0
        self._unqueued.discard(session.id)
        return position

    async def enqueue_again(self, session: Session) -> bool:
        """Enqueue a session some time after its commit.

        If the session is erased meanwhile, its job is removed too. Return False if
        Redis is unavailable.
        """
        if not await self.enqueue(session):
            return False
        if not await self._reader.ids_among([session.id]):
            with contextlib.suppress(QueueUnavailable):
                await self._queue.forget(session.id, session.attempt, session.enqueues)
        return True

    async def retry_enqueues(self) -> None:
        """Enqueue the sessions that this process could not, oldest first.

        They keep the n of their job id: no other process knows that the first enqueue
        failed.
        """
        for session_id in sorted(self._unqueued):
            session = await self._reader.get(session_id)
            if session is None or session.status is not Status.CREATED:
                self._unqueued.discard(session_id)
            elif not await self.enqueue_again(session):
                return
