"""One operator's open page: its unsent frames, bounded, as Server-Sent Events."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from server.domain.operator import ByeFrame
from server.web.transports.sse import HEADERS
from tryon.protocol.frames import encode

MAX_UNSENT: Final = 32
"""Maximum frames that wait for a page to read; one that has more is dropped."""

SEND_SECONDS: Final = 10.0
"""Maximum time that one frame waits for a page to read."""


class Viewer:
    """The unsent frames of one page; of states only the newest waits."""

    __slots__ = ("_frames", "_news", "_unsent_state", "bye")

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._unsent_state: bytes | None = None
        self._news = asyncio.Event()
        self.bye: str | None = None
        """Why nothing more comes."""

    def __repr__(self) -> str:
        return f"<Viewer unsent={len(self._frames)} bye={self.bye}>"

    def put(self, frame: bytes) -> None:
        """Append a frame; a page that reads too slowly is dropped."""
        if self.bye is not None:
            return
        if len(self._frames) >= MAX_UNSENT:
            self._frames.clear()
            self.end("too_slow")
            return
        self._frames.append(frame)
        self._news.set()

    def put_state(self, frame: bytes) -> None:
        """Send a state after the other frames, in place of one that is unsent."""
        self._unsent_state = frame
        self._news.set()

    def end(self, reason: str) -> None:
        """Let the stream end after the unsent frames; the first reason counts."""
        self.bye = self.bye or reason
        self._news.set()

    async def next(self) -> bytes | None:
        """Return the next frame; None: nothing more comes."""
        while True:
            if self._frames:
                return self._frames.popleft()
            if self.bye is not None:
                return None
            if (state := self._unsent_state) is not None:
                self._unsent_state = None
                return state
            self._news.clear()
            await self._news.wait()


async def _events(viewer: Viewer) -> AsyncIterator[bytes]:
    yield b"retry: 1000\n\n"
    while (frame := await viewer.next()) is not None:
        yield b"data: %s\n\n" % frame
    yield b"data: %s\n\n" % encode(ByeFrame(viewer.bye or ""))


class ViewerResponse(StreamingResponse):
    """The stream of one page, for ``seconds`` at most; ``left`` is called at its end.

    A page that does not read is cut.
    """

    def __init__(self, viewer: Viewer, *, seconds: float, left: Callable[[], None]) -> None:
        super().__init__(_events(viewer), headers=HEADERS)
        self._viewer = viewer
        self._seconds = seconds
        self._left = left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def bounded(message: Message) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        loop = asyncio.get_running_loop()
        over = loop.call_later(max(0.0, self._seconds), self._viewer.end, "signed_out")
        try:
            with contextlib.suppress(TimeoutError):
                await super().__call__(scope, receive, bounded)
        finally:
            over.cancel()
            self._left()
