"""WebSocket only: a socket on a bare connection, the hot path of the push.

Theory of operation
-------------------

A server that holds 20,000 sockets pays for each three times: memory while it is idle,
CPU for each message, CPU for each connect. A usual ASGI socket costs a parser, an ASGI
task and its queues, 25 KB in all, and a message passes three coroutines. So after the
handshake the connection is *detached* (:mod:`server.web.serving.handshake`): parser and
task are let go, and a :class:`WireSocket` becomes the transport's protocol. 2.3 KB are
left of the 25, and 6 us a message of 19.5 (push benchmark).

Outgoing. The hub calls :meth:`WireSocket.event`, which writes straight into the
transport. :func:`~.ws_frames.text_frame` remembers the last payload, so a message for
many clients is framed once. No task and no queue belong to a socket: the transport's
buffer is its outbox.

* Above :data:`HIGH_WATER_BYTES` of unsent bytes asyncio calls ``pause_writing``. From
  then on events are still written, and of progress the newest is kept for the moment
  when the client has read everything (``resume_writing``).
* A paused client is *stalled* when the buffer passes :data:`MAX_UNSENT_BYTES` or it
  took nothing for :data:`STALLED_SECONDS`. There is no timer: every write and every
  ping looks. A stalled client is closed as too slow, its ``seq`` set to None because it
  was not given the event, so its end does not count as delivered.

Liveness. The hub's wheel calls :meth:`WireSocket.ping`: the JSON ping for the page's
watchdog and a protocol ping in one write. Any frame of the client counts as its answer.
:meth:`WireSocket.overdue` comes later in the period and closes a silent client.

Incoming. A client has next to nothing to say, so its bytes are parsed at once, without
a buffer in the usual case. Frames, also parts of fragmented messages and empty ones,
are handed to the keeper, which counts them: a flood is misuse. The one pong that
answers our ping is free. After our close frame a client may send
:data:`MAX_AFTER_CLOSE_BYTES` more, which were on their way; then it is read no more.

The end. :meth:`WireSocket.close` writes ``bye`` and the close frame, leaves the keeper
at once (it counts as disconnected from then on), and cuts the connection after
:data:`CLOSE_SECONDS`, or at once if it is paused: its buffer may never empty.

Writes to a closed connection are harmless: ``transport`` is then :data:`NOWHERE`.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final, Protocol, cast

from server.system.clock import Clock
from server.telemetry import metrics
from server.web.transports.listener import TOO_SLOW, Listener
from server.web.transports.ws_frames import (
    CLOSE,
    MAX_FRAMES,
    MAX_MESSAGE_BYTES,
    NO_STATUS,
    PING,
    PING_FRAME,
    PONG,
    FrameError,
    Inbound,
    assemble,
    check_close,
    close_frame,
    parse_frames,
    pong_frame,
    text_frame,
)
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.frames import ByeFrame, bye, encode

HIGH_WATER_BYTES: Final = 16 * 1024
"""Unsent bytes above which only the newest progress is kept."""

MAX_UNSENT_BYTES: Final = 64 * 1024
"""Unsent bytes above which a client is closed as too slow."""

STALLED_SECONDS: Final = 8.0
"""Maximum time for which a client may take nothing; looked at with each write."""

CLOSE_SECONDS: Final = 2.0
"""Maximum time for a client to answer a close frame."""

MAX_AFTER_CLOSE_BYTES: Final = 64 * 1024
"""Maximum bytes that are read of a client after our close frame."""

EXTENSION: Final = "tryon.detach"

_REPLACED: Final = metrics.frames_dropped.labels("progress")
_LOST: Final = metrics.frames_dropped.labels("event")


class Keeper(Protocol):
    """The maker of a socket, called in plain functions."""

    def heard(self, wire: WireSocket, text: str) -> None:
        """Take one message; "" stands for a frame that is no whole text message."""

    def left(self, wire: WireSocket) -> None:
        """Forget the socket; called once."""


class WireSocket(Listener, asyncio.Protocol):
    """One WebSocket after its handshake."""

    __slots__ = (
        "_after_close",
        "_clock",
        "_closing",
        "_connections",
        "_fragments",
        "_keeper",
        "_latest",
        "_paused_at",
        "_pong_due",
        "_rest",
        "address",
        "transport",
    )

    max_message_bytes: ClassVar[int] = MAX_MESSAGE_BYTES
    max_unsent_bytes: ClassVar[int] = MAX_UNSENT_BYTES

    def __init__(self, session_id: str, keeper: Keeper, address: str, clock: Clock) -> None:
        super().__init__(session_id)
        self.transport: asyncio.Transport = NOWHERE
        self.address = address
        self._clock = clock
        self._keeper: Keeper | None = keeper
        self._connections: set[Any] | None = None
        self._after_close = 0
        self._closing = False
        self._fragments: bytes | None = None
        self._latest: bytes | None = None
        self._paused_at: float | None = None
        self._pong_due = False
        self._rest = b""

    def __repr__(self) -> str:
        return f"<WireSocket {self.session_id} seq={self.seq} closing={self._closing}>"

    # -- outgoing ----------------------------------------------------------------------

    def put(self, frame: bytes) -> None:
        """Write a frame; a stalled client is closed as too slow."""
        if self._closing:
            return
        if self._paused_at is not None and self._stalled():
            self.seq = None  # the client was not given this
            _LOST.inc()
            self.close(TOO_SLOW)
            return
        self.transport.write(text_frame(frame))

    def event(self, frame: bytes) -> None:
        """Write one transition."""
        if self._paused_at is None and not self._closing:
            self.transport.write(text_frame(frame))
            return
        self._latest = None  # progress of a transition that is over
        self.put(frame)

    def progress(self, frame: bytes) -> None:
        """Write progress, or keep the newest for a client that does not read."""
        if self._paused_at is None:
            if not self._closing:
                self.transport.write(text_frame(frame))
        elif self._stalled():
            self.close(TOO_SLOW)
        else:
            if self._latest is not None:
                _REPLACED.inc()
            self._latest = frame

    def ping(self, frame: bytes) -> None:
        """Write the page's ping and the protocol's (RFC 6455, 5.5.2) in one go."""
        if self._closing:
            return
        if self._paused_at is not None:
            if self._stalled():
                self.close(TOO_SLOW)
        else:
            self._pong_due = True
            self.transport.write(text_frame(frame) + PING_FRAME)

    def overdue(self) -> None:
        """Close a client that has not answered the last ping."""
        if self._pong_due:
            self.close(bye(CloseCode.NO_PONG))

    def _stalled(self) -> bool:
        unsent = self.transport.get_write_buffer_size()
        return unsent > self.max_unsent_bytes or self._clock.monotonic() - (self._paused_at or 0.0) > STALLED_SECONDS

    def pause_writing(self) -> None:
        """Note that the client does not read (asyncio's callback)."""
        self._paused_at = self._clock.monotonic()

    def resume_writing(self) -> None:
        """Write the progress that was kept: the client has read everything."""
        self._paused_at = None
        latest, self._latest = self._latest, None
        if latest is not None and not self._closing:
            self.transport.write(text_frame(latest))

    # -- the end -----------------------------------------------------------------------

    def close(self, bye: ByeFrame) -> None:
        """Write ``bye`` and close; the first reason counts.

        A client that does not read is cut. One that is not connected yet cannot be
        notified: the code that adopts it checks whether the server is stopping.
        """
        if self._closing or self.transport is NOWHERE:
            return
        self._closing = True
        metrics.closes.labels(str(bye.code)).inc()
        self.transport.write(text_frame(encode(bye)) + close_frame(bye.code, bye.reason))
        self._leave()
        if self._paused_at is not None:
            self.transport.abort()  # close() would wait for a buffer that may never empty
        else:
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.transport.abort)

    def _close_with(self, frame: bytes) -> None:
        """Answer with this close frame, unless one was sent, and close."""
        if not self._closing:
            self._closing = True
            self.transport.write(frame)
            self._leave()
        self.transport.close()

    def _leave(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.left(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection (asyncio's callback)."""
        self._closing = True
        self.transport = NOWHERE
        if self._connections is not None:
            self._connections.discard(self)
        self._leave()

    def shutdown(self) -> None:
        """Close: uvicorn calls this on every connection when it stops."""
        if not self._closing:
            self.close(bye(CloseCode.RESTART))

    # -- incoming ----------------------------------------------------------------------

    def adopt(self, transport: asyncio.Transport, connections: set[Any], received: bytes) -> None:
        """Take over a connection after its handshake.

        ``received``: what its client has sent already.
        """
        self._connections = connections
        connections.add(self)
        self.connection_made(transport)
        transport.set_protocol(self)
        if received:
            self.data_received(received)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound the transport's buffer; called by :meth:`adopt`."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=0)

    def data_received(self, data: bytes) -> None:
        """Parse what the client has sent (asyncio's callback)."""
        if self._closing:
            self._after_close += len(data)
            if self._after_close > MAX_AFTER_CLOSE_BYTES:
                self._stop_reading()
                return
        try:
            rest = self._rest + data if self._rest else bytes(data)
            while True:
                frames, rest = parse_frames(rest, self.max_message_bytes)
                for frame in frames:
                    self._receive(frame)
                if len(frames) < MAX_FRAMES:
                    self._rest = rest
                    return
                if self._closing:
                    self._stop_reading()
                    return
        except FrameError as error:
            self._rest = b""
            if not self._closing:
                metrics.closes.labels(str(error.close_code)).inc()
            self._close_with(close_frame(error.close_code, error.reason))

    def _stop_reading(self) -> None:
        """Read no more of a client that goes on after our close; it is cut soon."""
        self._rest = b""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def _receive(self, frame: Inbound) -> None:
        """Take one frame; each counts, but the one pong that answers our ping."""
        asked, self._pong_due = self._pong_due, False  # any frame shows that the client lives
        opcode, _, payload = frame
        if opcode == CLOSE:
            code = check_close(payload)
            self._close_with(close_frame(CloseCode.DONE if code == NO_STATUS else code))
            return
        if self._closing:
            return
        text = ""
        if opcode == PING:
            if self._paused_at is None:  # else the pongs for its pings would fill our memory
                self.transport.write(pong_frame(payload))
        elif opcode == PONG:
            if asked and not payload:  # our pings carry none
                return
        else:
            self._fragments, text = assemble(self._fragments, frame, self.max_message_bytes)
        if self._keeper is not None:
            self._keeper.heard(self, text)


class _Nowhere(asyncio.Transport):
    """The transport of a closed connection; uvloop's raises on a write."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


NOWHERE: Final = _Nowhere()
