"""Erases sessions that have expired, or that a client has deleted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from server.adapters.database.due import DueSessions
from server.adapters.files.port import Files
from server.domain.session import Session
from server.reconciler import timing
from server.reconciler.budget import Budget
from server.reconciler.failure_guard import FailureGuard
from server.reconciler.steps import Steps
from server.sessions.erasure import Erasure
from server.sessions.file_keys import may_have_unnamed_outputs, session_of
from server.system.clock import Clock
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import GoneReason

log = logging.getLogger("tryon.reconciler")

EXPIRED_AT_ONCE: Final = 100
"""Expired sessions of a page, which is made of them in some 3 ms; a pass reads two
pages at most, however many wait for their removal.
"""

MAX_ENDED: Final = 5000
"""Maximum sessions remembered between their end and their removal, some 3 KB each. The
rows remember the others: a later pass finds them.
"""

FAILURES_IN_A_ROW: Final = 10
"""Removals that fail in a row until the storage is taken for unavailable: then the
others are not tried either, and not logged.
"""


@dataclass(slots=True)
class _Ended:
    """A session whose clients were notified, and which still has its row."""

    session: Session
    reason: GoneReason
    try_at: float
    """When its removal is tried next, on the loop's clock."""
    delay_seconds: float = 0.5
    """The pause before that."""


def _place(session: Session) -> tuple[datetime, str]:
    """Return the place of a session among the expired ones."""
    return session.expires_at, session.id


class Expiry:
    """Ends expired sessions, then removes them.

    The two don't wait for each other: a storage that fails, or answers nothing, delays
    no notification and no pass. Both go in small steps (:mod:`.steps`). State: sessions
    that have ended and are not removed yet, the removal that is under way, and how far
    the expired sessions were read. The rows remember them, too, for the process that
    comes after this one, and beyond :data:`MAX_ENDED`.
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
        self._ended: dict[str, _Ended] = {}
        self._ending_steps, self._removing_steps = Steps(), Steps()
        self._removing: asyncio.Task[bool] | None = None
        self._walked: Session | None = None
        """The last session of the page that was read in the last pass; None if that was
        the last page.
        """
        self._newest: Session | None = None
        """The session that expired last of all that were read."""

    def __repr__(self) -> str:
        return f"<Expiry ended={len(self._ended)} removing={self._removing is not None}>"

    async def erase_expired(self) -> bool:
        """End and remove expired sessions; return whether some are left.

        The removal is awaited for at most :data:`timing.REMOVAL_SECONDS`, then goes on
        beside the next passes. Raises Unavailable.
        """
        left_over = await self._end_expired()
        if self._removing is None:
            due = self._due_for_removal()
            if not due:
                return left_over
            self._removing = asyncio.create_task(self._remove(due), name="removal of expired sessions")
            await asyncio.wait({self._removing}, timeout=timing.REMOVAL_SECONDS)
        if self._removing.done():
            removing, self._removing = self._removing, None
            left_over |= removing.result()
        return left_over

    async def stop(self) -> None:
        """Cancel the removal that is under way, and wait for its end."""
        if self._removing is not None:
            self._removing.cancel()
            await asyncio.wait({self._removing})
            self._removing = None

    async def _end_expired(self) -> bool:
        """Notify the clients of sessions that expired; return whether some are left."""
        ended = set(self._ended)  # before the reading: a row that it finds may be removed before its end
        expired, full = await self._read_expired()
        async for some in self._ending_steps.over([each for each in expired if each.id not in ended]):
            self._ending_steps.note_held(await self._end(some))
            self._failure_guard.note_success()
        return full

    async def _end(self, sessions: Sequence[Session]) -> float:
        """Notify the clients of sessions that expired, unless that was done before.

        By the tombstones: a client has deleted the session, an earlier process has
        ended it, or so has this one, and did not remember it. Return the seconds for
        which the database served no other writer.
        """
        held = 0.0
        reasons = await self._erasure.reasons_among(sessions)
        new = [each for each in sessions if each.id not in reasons]
        if new:
            log.info("Found %d expired sessions to clean up", len(new))
            held = await self._erasure.expire(new)
        now = asyncio.get_running_loop().time()
        for each in sessions[: max(0, MAX_ENDED - len(self._ended))]:
            self._ended[each.id] = _Ended(each, reasons.get(each.id, GoneReason.EXPIRED), now)
        return held

    async def _read_expired(self) -> tuple[list[Session], bool]:
        """Read expired sessions; return them, and whether more are to be read at once.

        The new ones stand behind those that wait for their removal, which may be very
        many: so read a page behind the newest. Another page wanders through all of
        them, a pass at a time, for those that an earlier page did not have: their
        commit stalled, or the clock was set back.
        """
        page = await self._due.expired(after=self._walked, limit=EXPIRED_AT_ONCE)
        self._note_newest(page)
        if len(page) < EXPIRED_AT_ONCE:
            self._walked = None
            return page, False
        self._walked = page[-1]
        new = await self._due.expired(after=self._newest, limit=EXPIRED_AT_ONCE)
        self._note_newest(new)
        return page + new, len(new) == EXPIRED_AT_ONCE

    def _note_newest(self, page: Sequence[Session]) -> None:
        if page and (self._newest is None or _place(page[-1]) > _place(self._newest)):
            self._newest = page[-1]

    def _due_for_removal(self) -> list[_Ended]:
        """Return the sessions whose removal is to be tried now, new ones first.

        Those that failed before must not keep the others waiting; those of one reason
        can be removed together.
        """
        now = asyncio.get_running_loop().time()
        due = (each for each in self._ended.values() if each.try_at <= now)
        return sorted(due, key=lambda each: (each.delay_seconds, each.reason))

    async def _remove(self, due: Sequence[_Ended]) -> bool:
        """Remove sessions; return whether the budget ended before the work did.

        Those whose files cannot be deleted are tried again later and later, at most
        :data:`timing.STUCK_SECONDS` apart. Raises Unavailable if the database is.
        """
        outputs = await self._unnamed_outputs([each.session for each in due])
        budget = Budget(self._clock)  # begins after the reading: else a large system would only ever read
        failures = 0
        async for some in self._removing_steps.over(due):
            if failures or not await self._remove_together(some, outputs):
                for each in some:
                    failures = 0 if await self._remove_alone(each, outputs) else failures + 1
                    if failures == FAILURES_IN_A_ROW:
                        return False
            if budget.used_up:
                return True
        return False

    async def _remove_together(self, some: Sequence[_Ended], outputs: Mapping[str, Sequence[str]]) -> bool:
        """Remove sessions in one step; return False if it failed, for whatever reason.

        A session that another transaction is changing is left to a later pass.
        """
        if len({each.reason for each in some}) > 1:
            return False
        sessions = [each.session for each in some]
        keys = [key for each in sessions for key in outputs.get(each.id, ())]
        if any(each.id not in outputs and may_have_unnamed_outputs(each) for each in sessions):
            return False
        try:
            held = await self._erasure.remove_all(sessions, some[0].reason, keys)
        except Exception:  # it is told by the calls for each session alone
            log.debug("Some expired sessions could not be removed together", exc_info=True)
            return False
        self._removing_steps.note_held(held)
        self._failure_guard.note_success()
        for each in sessions:
            self._ended.pop(each.id, None)
        return True

    async def _remove_alone(self, each: _Ended, outputs: Mapping[str, list[str]]) -> bool:
        """Remove a session; return False if it is to be tried again."""
        removing = self._erasure.remove(each.session, each.reason, outputs=outputs.get(each.session.id))
        if await self._failure_guard.run(each.session, removing):
            self._ended.pop(each.session.id, None)
            return True
        each.delay_seconds = min(each.delay_seconds * 2, timing.STUCK_SECONDS)
        each.try_at = asyncio.get_running_loop().time() + each.delay_seconds
        return False

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
