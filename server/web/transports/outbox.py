"""A client's unsent frames, bounded: for event streams and sockets over ASGI.

Of progress only the newest waits. A detached WebSocket needs none: its transport has a
buffer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import ClassVar, Final

from server.telemetry import metrics
from server.web.transports.listener import TOO_SLOW, Listener
from tryon.protocol.frames import ByeFrame

OUTBOX_FRAMES: Final = 256
"""Maximum unsent frames; a client that has more is closed as too slow."""

SEND_SECONDS: Final = 10.0
"""Maximum time for one frame; a client that takes longer is closed as too slow."""

_REPLACED: Final = metrics.frames_dropped.labels("progress")
_LOST: Final = metrics.frames_dropped.labels("event")


class Outbox(Listener):
    """The unsent frames in order; at most one progress or ping waits, the newest."""

    __slots__ = ("_frames", "_last_is_replaceable", "_news", "bye", "sending")

    max_frames: ClassVar[int] = OUTBOX_FRAMES

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self._frames: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._last_is_replaceable = False
        self.bye: ByeFrame | None = None
        """Why nothing more comes; the first reason counts."""
        self.sending: asyncio.Timeout | None = None
        """Of an event stream: bounds the write that waits for the client to read."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id} seq={self.seq} unsent={len(self._frames)} bye={self.bye}>"

    @property
    def idle(self) -> bool:
        """Whether everything was sent."""
        return not self._frames

    def put(self, frame: bytes) -> None:
        """Append a frame; a full outbox closes the client as too slow."""
        if self.bye is not None:
            self.seq = None  # the client was not given this
            return
        if len(self._frames) >= self.max_frames:
            self.seq = None  # the client was not given this
            _LOST.inc()
            self.close(TOO_SLOW)
            return
        self._frames.append(frame)
        self._last_is_replaceable = False
        self._news.set()

    def put_latest(self, frame: bytes) -> None:
        """Append a frame, in place of the last one of its kind if that is unsent."""
        if self._last_is_replaceable and self._frames:
            self._frames.pop()
            _REPLACED.inc()
        self.put(frame)
        self._last_is_replaceable = True

    def event(self, frame: bytes) -> None:
        """Append one transition."""
        self.put(frame)

    def progress(self, frame: bytes) -> None:
        """Append progress, or replace the unsent one."""
        self.put_latest(frame)

    def ping(self, frame: bytes) -> None:
        """Append a ping unless other frames wait."""
        if self.idle:
            self.put_latest(frame)

    def close(self, bye: ByeFrame) -> None:
        """Let the outbox end after the unsent frames; the first reason counts."""
        if self.bye is None:
            self.bye = bye
            self._news.set()

    async def next(self) -> bytes | None:
        """Return the next frame; None: nothing more comes, see ``bye``."""
        while not self._frames:
            if self.bye is not None:
                return None
            self._news.clear()
            await self._news.wait()
        return self._frames.popleft()
