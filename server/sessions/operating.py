"""An operator's acts on a session: drive it again, cancel it, erase it.

Each is what its owner could do, or the reconciler, and keeps the owner: a retry is the
owner's own new session. Each leaves an action, written before anything happens; if the
database does not take it, nothing is done. A log line names session and operator.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from server.adapters.database.due import Queued
from server.adapters.database.operator_actions import OperatorActions
from server.adapters.database.overview import OverviewReader
from server.adapters.database.writing import SessionWriter
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue
from server.domain.operator import REASON
from server.domain.session import Session, valid_session_id
from server.domain.tokens import Signer
from server.sessions.cancelling import Cancelling
from server.sessions.erasure import Erasure
from server.sessions.queueing import Queueing
from server.sessions.requeueing import Requeueing
from server.sessions.submissions import Submissions
from server.telemetry import logs
from tryon.protocol.errors import NotFound, TryOnError, Unavailable
from tryon.protocol.states import Event, Status
from tryon.protocol.views import Params

log = logging.getLogger("tryon.operator")

Judge = Callable[[Session, int | None], tuple[Params, int | None]]
"""Judges a session that is retried; see :meth:`Submissions.retry`."""

_TRIES: Final = 5
"""Times that a session which moves on meanwhile is looked at anew."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an action in one word; ``new_session_id``: of a retry."""

    word: str
    new_session_id: str | None = None


class Operating:
    """The actions of operators; stateless."""

    def __init__(
        self,
        *,
        reader: OverviewReader,
        writer: SessionWriter,
        actions: OperatorActions,
        queue: ArqQueue,
        queueing: Queueing,
        requeueing: Requeueing,
        submissions: Submissions,
        cancelling: Cancelling,
        erasure: Erasure,
        signer: Signer,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._actions = actions
        self._queue = queue
        self._queueing = queueing
        self._requeueing = requeueing
        self._submissions = submissions
        self._cancelling = cancelling
        self._erasure = erasure
        self._signer = signer

    async def redrive(self, session_id: str, operator: str, *, judge: Judge) -> Outcome:
        """Get a session going again, in the way that its state asks for.

        A failed or cancelled one is retried for its owner. One that waits is enqueued
        again. A running one is taken from its worker, whose attempt does not count, and
        waits for another. Raises NotFound, Conflict for a completed one, and as
        :meth:`Submissions.retry`.
        """
        return await self._noted("redrive", session_id, operator, lambda: self._redrive(session_id, operator, judge))

    async def cancel(self, session_id: str, operator: str) -> Outcome:
        """Cancel a session; one that has ended stays as it is. Raises NotFound."""
        return await self._noted("cancel", session_id, operator, lambda: self._cancel(session_id, operator))

    async def erase(self, session_id: str, operator: str) -> Outcome:
        """Erase a session and every retry of the same photo, as its owner could.

        Raises NotFound, Unavailable.
        """
        return await self._noted("erase", session_id, operator, lambda: self._erase(session_id))

    async def _noted(
        self, action: str, session_id: str, operator: str, act: Callable[[], Awaitable[Outcome]]
    ) -> Outcome:
        if not valid_session_id(session_id) or await self._reader.one(session_id) is None:
            raise NotFound
        action_id = await self._actions.add(
            operator=operator,
            action=action,
            session_hash=self._signer.tombstone_hash(session_id),
            request_id=logs.request_id.get(),
        )
        try:
            outcome = await act()
        except TryOnError as error:
            await self._end(action_id, action, session_id, operator, error.code)
            raise
        await self._end(action_id, action, session_id, operator, outcome.word)
        return outcome

    async def _end(self, action_id: int, action: str, session_id: str, operator: str, outcome: str) -> None:
        log.info("Operator %s: %s of session %s: %s", operator, action, session_id, outcome)
        with contextlib.suppress(Unavailable):  # the row stays as `asked`
            await self._actions.end(action_id, outcome)

    async def _redrive(self, session_id: str, operator: str, judge: Judge) -> Outcome:
        for _ in range(_TRIES):
            session = await self._found(session_id)
            if session.status.terminal:
                new, replayed = await self._submissions.retry(
                    session_id, session.owner, request_id=logs.request_id.get(), judge=judge
                )
                return Outcome("retried before" if replayed else "retried", new.id)
            if session.status is Status.CREATED:
                if await self._enqueue(session):
                    return Outcome("enqueued")
            elif await self._requeueing.take_away(session, actor=f"operator:{operator}", reason=REASON):
                with contextlib.suppress(QueueUnavailable):  # else its worker learns by its next heartbeat
                    await self._queue.ring_cancel(session_id)
                return Outcome(Event.REQUEUED)
        raise Unavailable(retry_after=1)

    async def _enqueue(self, session: Session) -> bool:
        """Enqueue a waiting session again; return False if it has moved on.

        Raises Unavailable without Redis.
        """
        try:
            waits = await self._queue.contains(session.id, session.attempt, session.enqueues)
        except QueueUnavailable:
            raise Unavailable(detail="Redis is unavailable; the session is enqueued once it is back.") from None
        queued = Queued(session.id, session.seq, session.enqueues)
        again = [session] if waits else await self._writer.count_enqueues([queued])
        return bool(again) and await self._queueing.enqueue_again(again[0])

    async def _cancel(self, session_id: str, operator: str) -> Outcome:
        session = await self._found(session_id)
        if session.status.terminal:
            return Outcome("unchanged")
        cancelled = await self._cancelling.cancel(session_id, session.owner, actor=f"operator:{operator}")
        if cancelled.pending:
            return Outcome("cancelling")
        return Outcome(Event.CANCELLED if cancelled.view.status is Status.CANCELLED else "unchanged")

    async def _erase(self, session_id: str) -> Outcome:
        session = await self._found(session_id)
        await self._erasure.delete(session_id, session.owner)
        return Outcome("erased")

    async def _found(self, session_id: str) -> Session:
        session = await self._reader.one(session_id)
        if session is None:
            raise NotFound
        return session
