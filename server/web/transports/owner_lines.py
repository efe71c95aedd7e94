"""The clients that follow all sessions of an owner: detached, over ASGI, as a stream.

Each is the transport's own client (:mod:`~.wire`, :mod:`~.outbox`, :mod:`~.sse`) with
three differences: of progress the newest of *each* session waits, more may be unsent,
and a ``sync`` may name two hundred sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, Final

from server.system.clock import Clock
from server.web.push.member import Line
from server.web.push.watch import Watch
from server.web.transports.inbound import InboundState, OwnerInboundState
from server.web.transports.listener import TOO_SLOW
from server.web.transports.outbox import Outbox
from server.web.transports.sse import RETRY_MS, Stream
from server.web.transports.wire import STALLED_SECONDS, Keeper, WireSocket
from server.web.transports.ws_frames import text_frame
from tryon.protocol.frames import ByeFrame

MAX_MESSAGE_BYTES: Final = 16 * 1024
"""Maximum message of a client: a ``sync`` that names 200 sessions takes 9 KiB."""

MAX_UNSENT_BYTES: Final = 512 * 1024
"""Unsent bytes above which a client is closed as too slow: two events of 500 bytes for
each of 200 sessions, and as much again.
"""

MAX_FRAMES: Final = 1024
"""Unsent frames above which a client is closed as too slow."""


class OwnerWire(WireSocket, Line):
    """A detached WebSocket; ``watch`` and ``task`` are set when it has joined."""

    __slots__ = ("_latest_of", "_read_all", "task", "watch")

    inbound_state: ClassVar[type[InboundState]] = OwnerInboundState
    max_message_bytes: ClassVar[int] = MAX_MESSAGE_BYTES
    max_unsent_bytes: ClassVar[int] = MAX_UNSENT_BYTES

    def __init__(self, keeper: Keeper, address: str, clock: Clock) -> None:
        super().__init__("", keeper, address, clock)
        self._latest_of: dict[str, bytes] = {}
        self._read_all = asyncio.Event()
        self.watch: Watch | None = None
        self.task: asyncio.Task[None] | None = None
        """Runs the watch."""

    def __repr__(self) -> str:
        return f"<OwnerWire {self.watch!r} closing={self._closing}>"

    def transition(self, session_id: str, frame: bytes, cursor: Callable[[], str]) -> None:
        """Write a frame of one session; a stalled client is closed as too slow."""
        self._latest_of.pop(session_id, None)  # progress of a transition that is over
        self.put(frame)

    def latest(self, session_id: str, frame: bytes) -> None:
        """Write progress, or keep the session's newest for a client that stalls."""
        if self._paused_at is None:
            self.put(frame)
        elif self._stalled():
            self.close(TOO_SLOW)
        else:
            self._latest_of[session_id] = frame

    @property
    def lost(self) -> bool:
        return False  # a wire that is closed closes its watch at once

    async def taken(self) -> None:
        """Wait until the client has read everything, or is closed as too slow."""
        while self._paused_at is not None and not self._closing:
            self._read_all.clear()
            try:
                async with asyncio.timeout(STALLED_SECONDS):
                    await self._read_all.wait()
            except TimeoutError:
                self.close(TOO_SLOW)

    def resume_writing(self) -> None:
        """Write the progress that was kept: the client has read everything."""
        super().resume_writing()
        kept, self._latest_of = self._latest_of, {}
        if kept and not self._closing:
            self.transport.write(b"".join([text_frame(frame) for frame in kept.values()]))
        self._read_all.set()

    def _leave(self) -> None:
        super()._leave()
        self._read_all.set()


class OwnerOutbox(Outbox, Line):
    """The unsent frames of a WebSocket over ASGI."""

    __slots__ = ("_latest_of", "_read_all")

    inbound_state: ClassVar[type[InboundState]] = OwnerInboundState
    max_frames: ClassVar[int] = MAX_FRAMES

    def __init__(self) -> None:
        super().__init__("")
        self._latest_of: dict[str, bytes] = {}
        self._read_all = asyncio.Event()

    def transition(self, session_id: str, frame: bytes, cursor: Callable[[], str]) -> None:
        """Append a frame of one session."""
        self._latest_of.pop(session_id, None)
        self.put(frame)

    def latest(self, session_id: str, frame: bytes) -> None:
        """Append progress, or keep the newest of the session until all was sent."""
        if self.idle:
            self.put(frame)
        else:
            self._latest_of[session_id] = frame

    @property
    def lost(self) -> bool:
        return self.bye is not None

    async def taken(self) -> None:
        """Wait until everything was sent, or the client is closed."""
        while not self.idle and self.bye is None:
            self._read_all.clear()
            await self._read_all.wait()

    async def next(self) -> bytes | None:
        """Return the next frame; None: nothing more comes, see ``bye``."""
        if self.idle and self._latest_of and self.bye is None:
            self.put(self._latest_of.pop(next(iter(self._latest_of))))
        frame = await super().next()
        if self.idle:
            self._read_all.set()
        return frame

    def close(self, bye: ByeFrame) -> None:
        """Let the outbox end after the unsent frames; the first reason counts."""
        super().close(bye)
        self._read_all.set()


class OwnerStream(OwnerOutbox, Stream):
    """The unsent events of an event stream; ``id`` is the cursor of all sessions."""

    __slots__ = ()

    def open(self) -> None:
        """Say after which time a client reconnects."""
        Outbox.put(self, b"retry: %d\n\n" % RETRY_MS)

    def put(self, frame: bytes) -> None:
        """Append a frame without an id."""
        Outbox.put(self, b"data: %s\n\n" % frame)

    def transition(self, session_id: str, frame: bytes, cursor: Callable[[], str]) -> None:
        """Append a frame of one session, with the cursor as id."""
        self._latest_of.pop(session_id, None)
        Outbox.put(self, b"id: %s\ndata: %s\n\n" % (cursor().encode(), frame))

    def ping(self, frame: bytes) -> None:
        """Append a ping, with a comment for proxies, unless other frames wait."""
        if self.idle:
            Outbox.put(self, b": ping\ndata: %s\n\n" % frame)
