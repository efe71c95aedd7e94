"""Transitions of a session: commit each, then count, log and publish it once.

A claim is committed by :mod:`.claims` itself and announced here.

Nothing is published before its commit, and a transition that lost its race publishes
nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from typing import Final

from server.adapters.database.changes import Change, Fail, Moved
from server.adapters.database.writing import SessionWriter
from server.adapters.redis.bus import RedisBus
from server.domain.bus_message import event_message
from server.domain.costs import NO_PRICES, Prices
from server.sessions.access import AccessIssuer
from server.sessions.checkpoints import Checkpoints
from server.sessions.counting import count
from server.telemetry import metrics
from tryon.protocol import errors

log = logging.getLogger("tryon.sessions")

MAX_MESSAGE: Final = 500
"""Maximum characters of an error's message; the rest is cut off."""


class Transitions:
    """Commits transitions, and announces each after its commit; stateless."""

    def __init__(
        self,
        *,
        writer: SessionWriter,
        bus: RedisBus,
        access: AccessIssuer,
        checkpoints: Checkpoints,
        prices: Prices = NO_PRICES,
    ) -> None:
        self._prices = prices
        self._writer = writer
        self._bus = bus
        self._access = access
        self._checkpoints = checkpoints

    async def apply(self, change: Change) -> Moved | None:
        """Try one transition and announce it after its commit.

        None: the condition did not hold (any more); nothing changed, nothing was
        published. Raises Unavailable.
        """
        return (await self.apply_each([change]))[0]

    async def apply_each(self, changes: Sequence[Change], *, patience: float | None = None) -> list[Moved | None]:
        """Try a transition of each of some sessions in one commit, then announce them.

        None stands for a change whose condition did not hold, and for all if the
        database let this wait for more than ``patience`` seconds. Raises Unavailable.
        """
        moved = await self._writer.transition_each(changes, patience=patience)
        for each in moved:
            if each is not None:
                await self.announce(each)
        return moved

    async def announce(self, moved: Moved) -> None:
        """Count, log and publish a committed transition, once."""
        event = moved.event
        count(moved, self._prices)
        log.info(
            "Session state transition: %s → %s", event.from_status, event.status, extra={"session_id": event.session_id}
        )
        begun = time.perf_counter()
        if await self._bus.publish(event.session_id, event_message(event, self._access.issue().file)):
            metrics.publish_seconds.observe(time.perf_counter() - begun)

    async def time_out(self, session_ids: Collection[str]) -> set[str]:
        """Fail each of these sessions that is past its deadline, in one transaction.

        What a running attempt had used when it saved its last checkpoint counts. Return
        the ids of the sessions that failed.
        """
        usage = self._checkpoints.usage
        moved = await self._writer.time_out(session_ids, failure("timeout"), actor="reconciler", usage=usage)
        for each in moved:
            await self.announce(each)
            log.info("Session %s failed: timeout", each.session.id)
        return {each.session.id for each in moved}


def failure(code: str, message: str | None = None, retryable: bool | None = None, *, burnt: int | None = None) -> Fail:
    """Return the end with this error code.

    ``message`` and ``retryable`` default to the code's own; a code of a processor's own
    has those of ``processor_error`` and may be retried. ``burnt``: as in :class:`Fail`.
    """
    known = errors.FAILURES.get(code)
    text = message or (known or errors.FAILURES["processor_error"]).detail
    again = retryable if retryable is not None else (known.retryable if known else True)
    return Fail(code, text[:MAX_MESSAGE], again, burnt)
