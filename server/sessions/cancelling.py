"""A client's request to cancel a session."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass

from server.adapters.database.changes import Cancel, Change
from server.adapters.database.reading import SessionReader
from server.adapters.database.writing import SessionWriter
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue
from server.sessions.ownership import owned_session
from server.sessions.reads import SessionReads
from server.sessions.transitions import Transitions
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Status
from tryon.protocol.views import SessionView

log = logging.getLogger("tryon.sessions")


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The outcome of a request to cancel; ``pending``: the worker was asked to stop."""

    view: SessionView
    pending: bool


class Cancelling:
    """Cancels a waiting session, and asks the worker of a running one; stateless."""

    def __init__(
        self,
        *,
        reader: SessionReader,
        writer: SessionWriter,
        transitions: Transitions,
        queue: ArqQueue,
        reads: SessionReads,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._transitions = transitions
        self._queue = queue
        self._reads = reads

    async def cancel(self, session_id: str, owner: str | None, *, actor: str = "client") -> Cancelled:
        """Cancel a waiting session at once, or ask the worker of a running one to stop.

        A session that has ended stays as it is. ``actor``: as the audit trail names the
        caller. Raises NotFound; Unavailable if the
        session moved on each time it was tried.
        """
        for _ in range(10):  # the session may move on between reading and acting
            session = await owned_session(self._reader, session_id, owner)
            if session.status is Status.CREATED:
                moved = await self._transitions.apply(
                    Change(
                        session_id=session.id,
                        outcome=Cancel(),
                        from_status=Status.CREATED,
                        actor=actor,
                        seq=session.seq,
                    )
                )
                if moved is not None:
                    log.info("Session %s was cancelled", session.id)
                    with contextlib.suppress(QueueUnavailable):
                        await self._queue.forget(session.id, session.attempt, session.enqueues)
                    return Cancelled(await self._reads.view_of(moved.session), pending=False)
            elif session.status is Status.PROCESSING:
                if await self._writer.request_cancel(session.id, seq=session.seq):
                    with contextlib.suppress(QueueUnavailable):
                        await self._queue.ring_cancel(session.id)
                    return Cancelled(await self._reads.view_of(session), pending=True)
            else:
                return Cancelled(await self._reads.view_of(session), pending=False)
        raise Unavailable(retry_after=1)
