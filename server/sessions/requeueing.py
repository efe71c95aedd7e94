"""Moves a running session back to ``created``, or ends it after its last attempt.

This is a change in the database; :mod:`.queueing` then puts the job into Redis.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from server.adapters.database.changes import Cancel, Change, Fail, Outcome, Requeue, Usage
from server.domain.session import Session
from server.sessions.checkpoints import Checkpoints
from server.sessions.queueing import Queueing
from server.sessions.transitions import Transitions, failure
from tryon.protocol.states import Event, Status

log = logging.getLogger("tryon.sessions")


class Requeueing:
    """The rule for a session whose attempt ended without a result; stateless."""

    def __init__(
        self, *, transitions: Transitions, queueing: Queueing, checkpoints: Checkpoints, max_attempts: int
    ) -> None:
        self._transitions = transitions
        self._checkpoints = checkpoints
        self._queueing = queueing
        self._max_attempts = max_attempts

    async def requeue(
        self,
        session: Session,
        *,
        actor: str,
        burnt: bool,
        reason: str,
        lease_lapsed: bool = False,
        error: Fail | None = None,
        usage: Usage | None = None,
        processor: str | None = None,
    ) -> bool:
        """Move a running session back to created, or to its end.

        The end is failed if its last attempt is burnt, and cancelled if a client
        requested that. ``burnt``: the attempt counts against the limit.
        ``lease_lapsed``: only if the worker's lease has ended. ``error``: the end if
        this was the last attempt; None stands for ``worker_lost``. ``usage``: what the
        attempt has used. ``processor``: that of the next attempt; None: the same.
        Return False if a condition no longer held.
        """
        lost = session.burnt + burnt
        if lost >= self._max_attempts:
            outcome: Outcome = replace(error or failure("worker_lost"), burnt=lost)
        else:
            outcome = Requeue(reason=reason, burnt=lost, enqueues=session.enqueues + 1, processor=processor)
        change = Change(
            session_id=session.id,
            outcome=outcome,
            from_status=Status.PROCESSING,
            actor=actor,
            attempt=session.attempt,
            cancelled=False,
            lease_lapsed=lease_lapsed,
            usage=usage,
        )
        moved = await self._transitions.apply(change) or await self._transitions.apply(
            replace(change, outcome=Cancel(), cancelled=True)
        )
        if moved is None:
            return False
        if moved.event.event is Event.REQUEUED:
            await self._queueing.enqueue(moved.session)
        else:
            log.info(
                "Session %s %s",
                session.id,
                "was cancelled" if moved.event.event is Event.CANCELLED else f"failed: {moved.session.error_code}",
            )
        return True

    async def take_back(self, session: Session) -> bool:
        """Requeue or end a session whose worker let its lease lapse.

        Return False if the worker renewed it in time. What the attempt had used when it
        saved its last checkpoint counts. Raises Unavailable.
        """
        work = await self._checkpoints.load(session.id)
        usage = work.usage if work is not None and work.attempt == session.attempt else None
        return await self.requeue(
            session, actor="reconciler", burnt=True, reason="lease_lost", lease_lapsed=True, usage=usage
        )
