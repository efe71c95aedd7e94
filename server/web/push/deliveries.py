"""When each session's end first reached a client: noted where it is handed over,
written down soon after, many at once.

Handing over costs a look into a dictionary. What a killed process had not written down
yet is lost, and the session then counts as told by whoever is told next.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from server.adapters.database.clock import DatabaseClock
from server.adapters.database.writing import SessionWriter
from server.domain.session import Session
from server.telemetry import metrics
from tryon.protocol.errors import Unavailable

BATCH_SECONDS: Final = 0.5
"""Ends that are handed over within this time are written down together."""

BATCH: Final = 400
"""So many at most in one transaction."""

FLUSH_SECONDS: Final = 0.5
"""How long a stopping process tries to write down the last ones."""

MAX_WAITING: Final = 10_000
"""So many wait for the database at most; of what comes then nobody will know when it
was delivered.
"""


class Receipts:
    """Of one web process."""

    def __init__(self, *, clock: DatabaseClock, writing: SessionWriter) -> None:
        self._clock = clock
        self._writing = writing
        self._handed: dict[str, float] = {}
        """Session id -> when its end was first handed over here, on the database's
        clock.
        """
        self._some = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Receipts waiting={len(self._handed)}>"

    def note(self, session_id: str) -> None:
        """This session's end was handed to a client's connection just now."""
        if session_id not in self._handed and len(self._handed) < MAX_WAITING:
            self._handed[session_id] = self._clock.now()
            self._some.set()

    def shown(self, session: Session) -> None:
        """A client was given this state.

        Does nothing unless it is an end that nobody has been given yet.
        """
        if session.status.terminal and session.delivered_at is None:
            self.note(session.id)

    async def next_batch(self) -> None:
        """Wait for ends, gather more for a moment, write them down.

        Raises Unavailable; then those that were not are kept.
        """
        await self._some.wait()
        await asyncio.sleep(BATCH_SECONDS)
        await self.write_down()

    async def write_down(self) -> None:
        """All that wait.

        Raises Unavailable; then those that could not be written down are kept.
        """
        self._some.clear()
        waiting = list(self._handed.items())
        try:
            for start in range(0, len(waiting), BATCH):
                await self._write_down(dict(waiting[start : start + BATCH]))
        except BaseException:
            self._some.set()
            raise

    async def _write_down(self, handed: dict[str, float]) -> None:
        first = await self._writing.note_delivered(handed)
        for session_id in handed:
            del self._handed[session_id]
        for session_id, ended_at in first.items():
            metrics.delivered_seconds.observe(max(0.0, handed[session_id] - ended_at.timestamp()))

    async def flush(self) -> None:
        """The last ones, when no client is connected any more."""
        if self._handed:
            with contextlib.suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self.write_down()
