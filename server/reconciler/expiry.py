"""Erases sessions that have expired, or that a client has deleted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from server.adapters.database.due import DueSessions
from server.adapters.files.port import Files
from server.domain.session import Session
from server.reconciler import timing
from server.reconciler.budget import Budget
from server.reconciler.failure_guard import FailureGuard
from server.sessions.erasure import Erasure
from server.sessions.file_keys import may_have_unnamed_outputs, session_of
from server.system.clock import Clock
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import GoneReason

log = logging.getLogger("tryon.reconciler")

EXPIRED_AT_ONCE: Final = 1000
"""Maximum expired sessions read in one pass, stuck sessions not counted."""


@dataclass(frozen=True, slots=True)
class _Stuck:
    """When to try again, on the loop's clock, and the delay before, in seconds."""

    at: float
    seconds: float


class Expiry:
    """Erases expired sessions.

    State: the expired sessions whose files could not be deleted, and when each is tried
    again.
    """

    def __init__(
        self,
        *,
        due: DueSessions,
        files: Files,
        erasure: Erasure,
        failure_guard: FailureGuard,
        clock: Clock,
    ) -> None:
        self._due = due
        self._files = files
        self._erasure = erasure
        self._failure_guard = failure_guard
        self._clock = clock
        self._stuck: dict[str, _Stuck] = {}

    def __repr__(self) -> str:
        return f"<Expiry stuck={len(self._stuck)}>"

    async def erase_expired(self) -> bool:
        """Erase expired sessions; return whether some are left for the next pass.

        Sessions whose files cannot be deleted are tried again later and later, at most
        :data:`timing.STUCK_SECONDS` apart. Raises Unavailable.
        """
        now = asyncio.get_running_loop().time
        limit = EXPIRED_AT_ONCE + len(self._stuck)
        expired = await self._due.expired(limit=limit)
        self._stuck = {each.id: self._stuck[each.id] for each in expired if each.id in self._stuck}
        due = [each for each in expired if each.id not in self._stuck or self._stuck[each.id].at <= now()]
        if not due:
            return False
        log.info("Found %d expired sessions to clean up", len(due))
        deleted = await self._erasure.deleted_among(due)
        outputs = await self._unnamed_outputs(due)
        budget = Budget(self._clock)  # begins after the reading: else a large system would only ever read
        for session in due:
            reason = GoneReason.DELETED if session.id in deleted else GoneReason.EXPIRED
            erasing = self._erasure.erase(session, reason, outputs=outputs.get(session.id))
            if await self._failure_guard.run(session, erasing):
                self._stuck.pop(session.id, None)
            else:
                before = self._stuck.get(session.id)
                seconds = min(before.seconds * 2, timing.STUCK_SECONDS) if before else 1.0
                self._stuck[session.id] = _Stuck(now() + seconds, seconds)
            if budget.used_up:
                return True
        return len(expired) == limit

    async def _unnamed_outputs(self, sessions: Collection[Session]) -> dict[str, list[str]]:
        """Return the results that attempts which died may have stored, by session.

        One listing finds all of them. If it fails, return nothing: then each session
        is listed by itself, and waits if that fails too.
        """
        ids = [each.id for each in sessions if may_have_unnamed_outputs(each)]
        outputs: dict[str, list[str]] = {id: [] for id in ids}
        try:
            for key in await self._files.outputs_of(ids) if ids else []:
                outputs[session_of(key)].append(key)
        except Unavailable:
            return {}
        return outputs
