"""Progress of one claim on its way to the clients: coalesced, newest wins."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from server.adapters.redis.bus import RedisBus
from server.domain.bus_message import progress_message
from server.domain.session import Progress
from server.sessions.access import AccessIssuer

PROGRESS_SECONDS: Final = 0.2
"""Minimum seconds between two progress messages of a session (5 per second)."""


class ProgressReports:
    """The newest progress of one claim, until it may be published."""

    __slots__ = ("_access", "_bus", "_ended", "_last", "_last_at", "_latest", "_preview", "_session_id", "timer")

    def __init__(self, session_id: str, bus: RedisBus, access: AccessIssuer) -> None:
        self._session_id = session_id
        self._bus = bus
        self._access = access
        self._last: Progress | None = None
        """The last one that was added."""
        self._latest: Progress | None = None
        """The same, until it is published."""
        self._preview: str | None = None
        """The key of the last intermediate picture."""
        self._last_at = float("-inf")
        self._ended = False
        self.timer: asyncio.Task[None] | None = None
        """Publishes the newest progress; None while there is none to publish."""

    def __repr__(self) -> str:
        state = "ended" if self._ended else "idle" if self.timer is None else "waiting"
        return f"<ProgressReports of {self._session_id} {state}>"

    def add(self, progress: Progress) -> None:
        """Publish this progress soon, unless a newer one replaces it or the claim ends.

        Never waits for Redis.
        """
        if self._ended:
            return
        self._last = self._latest = msgspec.structs.replace(progress, preview=self._preview)
        if self.timer is None:
            self.timer = asyncio.create_task(self._publish(), name="progress")

    def show(self, preview: str, *, seq: int, attempt: int, at: str) -> None:
        """Publish the last progress again, with this preview from now on."""
        self._preview = preview
        last = self._last or Progress(seq=seq, attempt=attempt, at=at)
        self.add(msgspec.structs.replace(last, at=at))

    async def end(self) -> None:
        """Publish nothing more; return once nothing is in flight."""
        self._ended = True
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()
            await asyncio.wait({timer})  # neither its cancel nor its error is the caller's

    async def _publish(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._latest is not None:
                await asyncio.sleep(self._last_at + PROGRESS_SECONDS - loop.time())
                latest, self._latest = self._latest, None
                self._last_at = loop.time()
                message = progress_message(self._session_id, latest, self._access.issue().file)
                await self._bus.publish_progress(self._session_id, latest, message)
        finally:
            self.timer = None
