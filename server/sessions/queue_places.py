"""The places of all waiting sessions in the queue, read once for all clients."""

from __future__ import annotations

import asyncio
from typing import Final

from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue
from server.domain.queue_place import Waiting, expected_seconds

WAITING_SECONDS: Final = 1.0
"""Maximum age of a place in the queue when a client gets it."""


class QueuePlaces:
    """Gives every waiting session its place in the queue.

    State: the last reading of the queue.
    """

    def __init__(self, *, queue: ArqQueue, processor: str, queue_limit: int, worker_jobs: int) -> None:
        self._queue = queue
        self._processor = processor
        self._queue_limit = queue_limit
        self._worker_jobs = worker_jobs
        self._places: dict[str, Waiting] = {}
        self._joined: dict[str, Waiting] = {}
        """Sessions that this process has enqueued since it began to read the queue: the
        reading may not contain them.
        """
        self._read_at = float("-inf")
        self._run_seconds: float | None = None
        self._slots = 0
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<QueuePlaces waiting={len(self._places)} slots={self._slots}>"

    async def current(self) -> dict[str, Waiting]:
        """Return every waiting session's place in the queue and its time to the end.

        Empty while Redis is unavailable. The queue is read at most once in
        :data:`WAITING_SECONDS` (plus a second for each thousand waiting sessions),
        however many clients ask, so pushed and polled places are the same. The same
        object as before means that the queue was not read again.
        """
        loop = asyncio.get_running_loop()
        good_for = WAITING_SECONDS + len(self._places) // 1000
        if loop.time() - self._read_at < good_for:
            return self._places
        async with self._lock:
            if loop.time() - self._read_at >= good_for:
                self._joined.clear()
                try:
                    order, self._run_seconds, workers = await asyncio.gather(
                        self._queue.order(self._queue_limit),
                        self._queue.run_seconds(self._processor),
                        self._queue.workers(),
                    )
                except QueueUnavailable:
                    order, self._run_seconds, workers = [], None, {}
                self._slots = len(workers) * self._worker_jobs
                self._places = self._joined | {id: self._place(n) for n, id in enumerate(order, 1)}
                self._read_at = loop.time()
            return self._places

    def join(self, session_id: str, position: int) -> None:
        """Add a session that was just enqueued at ``position`` (from 1).

        The last reading of the queue does not contain it.
        """
        self._places[session_id] = self._joined[session_id] = self._place(position)

    def _place(self, position: int) -> Waiting:
        return Waiting(position, expected_seconds(position, run_seconds=self._run_seconds, slots=self._slots))
