"""Crash the worker of a session when its owner asks, to show how it recovers.

In demo mode alone (``TRYON_DEMO``): all other sessions of the worker are interrupted,
too.
"""

from __future__ import annotations

import logging

from server.adapters.database.reading import SessionReader
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.limits import RedisLimiter
from server.adapters.redis.queue import ArqQueue
from server.domain.session import Session
from server.sessions.ownership import owned_session
from tryon.protocol.errors import Conflict, NotFound, RateLimited, Unavailable
from tryon.protocol.states import Status

log = logging.getLogger("tryon.sessions")


class Crashing:
    """Asks the worker that runs a session to crash; stateless."""

    def __init__(self, *, reader: SessionReader, queue: ArqQueue, limiter: RedisLimiter, demo: bool) -> None:
        self._reader = reader
        self._queue = queue
        self._limiter = limiter
        self._demo = demo

    def __repr__(self) -> str:
        return f"<Crashing demo={self._demo}>"

    async def crash(self, session_id: str, owner: str | None, *, address: str) -> Session:
        """Ask the worker that runs this session to crash; return the session.

        The worker learns of it by Redis at most once, and is not waited for. Counted
        by ``address``. Raises NotFound outside of the demo mode, Conflict
        (``not_running``) unless the session runs, RateLimited, Unavailable.
        """
        if not self._demo:
            raise NotFound
        session = await owned_session(self._reader, session_id, owner)
        if session.status is not Status.PROCESSING:
            raise Conflict("not_running")
        verdict = await self._limiter.take(address)
        if verdict is not None and not verdict.allowed:
            raise RateLimited(limit="crash_rate", retry_after=verdict.reset_seconds)
        try:
            await self._queue.ring_cancel(session.id, crash=True)
        except QueueUnavailable:
            raise Unavailable(retry_after=1) from None
        log.warning("Session %s: its owner asked its worker to crash (TRYON_DEMO)", session.id)
        return session
