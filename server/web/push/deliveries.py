"""The delivery log: when each session's end first reached a client.

Noted where the end is handed over, written to the database soon after, many at once.
Noting costs one look into a dictionary. Notes that a killed process had not written are
lost; the session then counts as delivered at the next time a client is given its end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from server.adapters.database.clock import DatabaseClock
from server.adapters.database.writing import SessionWriter
from server.domain.session import Session
from server.telemetry import metrics
from server.web.push.follower import Follower
from tryon.protocol.errors import Unavailable

BATCH_SECONDS: Final = 0.5
"""Ends handed over within this time are written together."""

BATCH: Final = 400
"""Maximum sessions in one transaction."""

FLUSH_SECONDS: Final = 0.5
"""Maximum time that a stopping process spends on writing the last notes."""

MAX_WAITING: Final = 10_000
"""Maximum notes that wait for the database; later ones are dropped."""


class DeliveryLog:
    """The ends that were delivered by this process and are not written yet."""

    __slots__ = ("_database_clock", "_handed", "_some", "_writer")

    def __init__(self, *, database_clock: DatabaseClock, writer: SessionWriter) -> None:
        self._database_clock = database_clock
        self._writer = writer
        self._handed: dict[str, float] = {}
        """Session id -> when its end was first handed over here, on the database's
        clock.
        """
        self._some = asyncio.Event()

    def __repr__(self) -> str:
        return f"<DeliveryLog waiting={len(self._handed)}>"

    def note(self, session_id: str) -> None:
        """Note that this session's end was handed to a connection just now."""
        if session_id not in self._handed and len(self._handed) < MAX_WAITING:
            self._handed[session_id] = self._database_clock.now()
            self._some.set()

    def note_offered(self, followers: Sequence[Follower], seq: int) -> None:
        """Note an end, ``seq``, that was offered to a session's followers.

        A follower that has it now was given it, or is about to read it.
        """
        if any(follower.seq == seq for follower in followers):
            self.note(followers[0].session_id)

    def note_shown(self, session: Session) -> None:
        """Note a state that a client was given, if it is an undelivered end."""
        if session.status.terminal and session.delivered_at is None:
            self.note(session.id)

    async def next_batch(self) -> None:
        """Wait for notes, gather more for :data:`BATCH_SECONDS`, write them.

        Raises Unavailable; the notes that were not written are kept.
        """
        await self._some.wait()
        await asyncio.sleep(BATCH_SECONDS)
        await self.write()

    async def write(self) -> None:
        """Write all notes.

        Raises Unavailable; the notes that were not written are kept.
        """
        self._some.clear()
        waiting = list(self._handed.items())
        try:
            for start in range(0, len(waiting), BATCH):
                await self._write_batch(dict(waiting[start : start + BATCH]))
        except BaseException:
            self._some.set()
            raise

    async def _write_batch(self, handed: dict[str, float]) -> None:
        first = await self._writer.note_delivered(handed)
        for session_id in handed:
            del self._handed[session_id]
        for session_id, ended_at in first.items():
            metrics.delivered_seconds.observe(max(0.0, handed[session_id] - ended_at.timestamp()))

    async def flush(self) -> None:
        """Write the last notes, when no client is connected any more."""
        if self._handed:
            with contextlib.suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self.write()
