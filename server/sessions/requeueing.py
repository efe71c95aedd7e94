"""Moves a running session back to ``created``, or ends it after its last attempt.

This is a change in the database; :mod:`.queueing` then puts the job into Redis.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from server.adapters.database.changes import Cancel, Change, Fail, Moved, Outcome, Requeue, SavedUsage, Usage
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
        error: Fail | None = None,
        usage: Usage | None = None,
        processor: str | None = None,
    ) -> bool:
        """Move a running session back to created, or to its end.

        The end is failed if its last attempt is burnt, and cancelled if a client
        requested that. ``burnt``: the attempt counts against the limit.
        ``error``: the end if this was the last attempt; None stands for
        ``worker_lost``. ``usage``: what the attempt has used. ``processor``: that of
        the next attempt; None: the same.
        Return False if a condition no longer held.
        """
        change = self._change(
            session,
            actor=actor,
            burnt=burnt,
            reason=reason,
            error=error,
            usage=usage,
            processor=processor,
        )
        return await self._apply([change]) == [True]

    async def take_back(self, sessions: Sequence[Session], *, patience: float | None = None) -> list[bool]:
        """Requeue or end sessions whose worker let its lease lapse, in one commit.

        False stands for a session whose worker renewed it in time, or that another
        transaction is changing, and for all if the database let this wait for more than
        ``patience`` seconds: then no worker could renew its lease meanwhile, and it
        lapsed for that reason alone. What the attempt had used when it saved its last
        checkpoint counts. Raises Unavailable.
        """
        usage = self._checkpoints.usage
        changes = [
            self._change(each, actor="reconciler", burnt=True, reason="lease_lost", usage=usage) for each in sessions
        ]
        return await self._apply([replace(each, lease_lapsed=True) for each in changes], patience=patience)

    async def take_away(self, session: Session, *, actor: str, reason: str) -> bool:
        """Take a running session from its worker, at no cost to it, for another.

        What the attempt had used when it saved its last checkpoint counts. Return False
        if a condition no longer held. Raises Unavailable.
        """
        change = self._change(session, actor=actor, burnt=False, reason=reason, usage=self._checkpoints.usage)
        return await self._apply([change]) == [True]

    def _change(
        self,
        session: Session,
        *,
        actor: str,
        burnt: bool,
        reason: str,
        error: Fail | None = None,
        usage: Usage | SavedUsage | None = None,
        processor: str | None = None,
    ) -> Change:
        lost = session.burnt + burnt
        if lost >= self._max_attempts:
            outcome: Outcome = replace(error or failure("worker_lost"), burnt=lost)
        else:
            outcome = Requeue(reason=reason, burnt=lost, enqueues=session.enqueues + 1, processor=processor)
        return Change(
            session_id=session.id,
            outcome=outcome,
            from_status=Status.PROCESSING,
            actor=actor,
            attempt=session.attempt,
            cancelled=False,
            usage=usage,
        )

    async def _apply(self, changes: Sequence[Change], *, patience: float | None = None) -> list[bool]:
        """Make each change, or cancel its session where a client requested that."""
        began = time.monotonic()
        moved = await self._try(changes, patience)
        if patience is not None:
            patience -= time.monotonic() - began
            if patience < 0:
                return moved
        left = [n for n, done in enumerate(moved) if not done]
        cancels = [replace(changes[n], outcome=Cancel(), cancelled=True) for n in left]
        for n, done in zip(left, await self._try(cancels, patience), strict=True):
            moved[n] = done
        return moved

    async def _try(self, changes: Sequence[Change], patience: float | None) -> list[bool]:
        moved = await self._transitions.apply_each(changes, patience=patience)
        for each in moved:
            if each is not None:
                await self._follow_up(each)
        return [each is not None for each in moved]

    async def _follow_up(self, moved: Moved) -> None:
        session = moved.session
        if moved.event.event is Event.REQUEUED:
            await self._queueing.enqueue(session)
        elif moved.event.event is Event.CANCELLED:
            log.info("Session %s was cancelled", session.id)
        else:
            log.info("Session %s failed: %s", session.id, session.error_code)
