"""A followed session on a bare connection: the hot path of the push.

After the handshake the connection is *detached* (:mod:`server.web.serving.handshake`):
what parsed the request and the ASGI task are let go (25 KB a connection become 2.3,
19.5 us a message become 6, measured with the push benchmark), and a :class:`WireSocket`
keeps the transport. It writes frames straight into it, reads what little a client may
say, and is pinged by the hub's one wheel. On a server without that extension the same
endpoint runs over plain ASGI messages.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, Protocol, cast

from server.telemetry import metrics
from server.web.transports.outbox import TOO_SLOW, Listener
from server.web.transports.ws_frames import (
    CLOSE,
    CONTINUATION,
    MAX_FRAMES,
    MAX_MESSAGE_BYTES,
    PING,
    PING_FRAME,
    PONG,
    TEXT,
    FrameError,
    check_close,
    check_text,
    close_frame,
    parse_frames,
    pong_frame,
    text_frame,
)
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.frames import ByeFrame, encode

HIGH_WATER_BYTES: Final = 16 * 1024
"""Unsent bytes above which progress waits, the newest word only."""

MAX_UNSENT_BYTES: Final = 64 * 1024
"""Unsent bytes above which a client is given up: 4002."""

STALLED_SECONDS: Final = 8.0
"""A client that takes nothing for so long is given up, looked at when it is pinged and
when something is sent.
"""

CLOSE_SECONDS: Final = 2.0
"""How long a client may take to answer a close frame."""

MAX_AFTER_CLOSE_BYTES: Final = 64 * 1024
"""What a client may send between our close frame and its own: it was on its way
already.
"""

EXTENSION: Final = "tryon.detach"


class Keeper(Protocol):
    """Whoever made a socket: told in plain functions what its client says, and once
    that it is gone.
    """

    def heard(self, wire: WireSocket, text: str) -> None: ...
    def left(self, wire: WireSocket) -> None: ...


class WireSocket(Listener, asyncio.Protocol):
    """One WebSocket after its handshake."""

    __slots__ = (
        "_after_close",
        "_closing",
        "_connections",
        "_fragments",
        "_keeper",
        "_latest",
        "_paused_at",
        "_pong_due",
        "_rest",
        "address",
        "said",
        "transport",
        "until",
    )

    def __init__(self, session_id: str, keeper: Keeper, address: str) -> None:
        super().__init__(session_id)
        self.transport: asyncio.Transport = NOWHERE
        self.address = address
        self.said: Any = None
        """For the keeper: what this client said lately. Most never say anything."""
        self.until: int | None = None
        """End of the ticket that opened it; None: a token did."""
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
        if self._closing:
            return
        if self._paused_at is not None and self._stalled():
            self.seq = None  # it was not given this
            self.close(TOO_SLOW)
            return
        self.transport.write(text_frame(frame))

    def event(self, frame: bytes) -> None:
        if self._paused_at is None and not self._closing:
            self.transport.write(text_frame(frame))
            return
        self._latest = None  # it speaks of a transition that is over
        self.put(frame)

    def progress(self, frame: bytes) -> None:
        if self._paused_at is None:
            if not self._closing:
                self.transport.write(text_frame(frame))
        elif self._stalled():
            self.close(TOO_SLOW)
        else:
            self._latest = frame

    def ping(self, frame: bytes) -> None:
        """The page's watchdog and the protocol's own (RFC 6455 section 5.5.2) in one
        write.
        """
        if self._closing:
            return
        if self._paused_at is not None:
            if self._stalled():
                self.close(TOO_SLOW)
        else:
            self._pong_due = True
            self.transport.write(text_frame(frame) + PING_FRAME)

    def overdue(self) -> None:
        if self._pong_due:
            self.close(ByeFrame(CloseCode.NO_PONG, "no_pong", reconnect=True))

    def _stalled(self) -> bool:
        unsent = self.transport.get_write_buffer_size()
        return unsent > MAX_UNSENT_BYTES or time.monotonic() - (self._paused_at or 0.0) > STALLED_SECONDS

    def pause_writing(self) -> None:
        self._paused_at = time.monotonic()

    def resume_writing(self) -> None:
        self._paused_at = None
        latest, self._latest = self._latest, None
        if latest is not None and not self._closing:
            self.transport.write(text_frame(latest))

    # -- the end -----------------------------------------------------------------------

    def close(self, bye: ByeFrame) -> None:
        """Say bye and close; the first reason counts.

        A client that does not read is cut off. One that is not connected yet cannot be
        told: whoever adopts it looks whether the server stops.
        """
        if self._closing or self.transport is NOWHERE:
            return
        self._closing = True
        metrics.closes.labels(str(bye.code)).inc()
        self.transport.write(text_frame(encode(bye)) + close_frame(bye.code, bye.reason))
        self._leave()
        if self._paused_at is not None:
            self.transport.abort()  # close() would wait for a buffer that nobody empties
        else:
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.transport.abort)

    def _fail(self, error: FrameError) -> None:
        if not self._closing:
            self._closing = True
            metrics.closes.labels(str(error.close_code)).inc()
            self.transport.write(close_frame(error.close_code, error.reason))
            self._leave()
        self.transport.close()

    def _leave(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.left(self)

    def _heard(self, text: str) -> None:
        if self._keeper is not None:
            self._keeper.heard(self, text)

    # -- incoming ----------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._after_close += len(data)
            if self._after_close > MAX_AFTER_CLOSE_BYTES:
                self._deafen()
                return
        try:
            rest = self._rest + data if self._rest else bytes(data)
            while True:
                frames, rest = parse_frames(rest)
                for opcode, final, payload in frames:
                    self._frame(opcode, final, payload)
                if len(frames) < MAX_FRAMES:
                    self._rest = rest
                    return
                if self._closing:
                    self._deafen()
                    return
        except FrameError as error:
            self._rest = b""
            self._fail(error)

    def _deafen(self) -> None:
        """It was told that it is over and goes on: not a byte more is read of it, and
        soon it is cut off.
        """
        self._rest = b""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def _frame(self, opcode: int, final: bool, payload: bytes) -> None:
        """Every frame counts, also each part of a fragmented message; but the one pong
        that answers our ping.
        """
        asked, self._pong_due = self._pong_due, False  # whatever it says, it lives
        if opcode == CLOSE:
            self._client_closes(payload)
            return
        if self._closing:
            return
        if opcode == PING:
            # To one that does not read, no pongs: its pings would fill our memory.
            if self._paused_at is None:
                self.transport.write(pong_frame(payload))
            self._heard("")
        elif opcode == PONG:
            if payload or not asked:  # ours carry none
                self._heard("")
        elif opcode == CONTINUATION:
            if self._fragments is None:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "nothing to continue")
            if len(self._fragments) + len(payload) > MAX_MESSAGE_BYTES + 1:
                raise FrameError(CloseCode.MESSAGE_TOO_BIG, "message too big")
            self._fragments += payload
            if final:
                message, self._fragments = self._fragments, None
                self._message(message[0], message[1:])
            else:
                self._heard("")
        elif self._fragments is not None:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a message inside a message")
        elif final:
            self._message(opcode, payload)
        else:
            self._fragments = bytes((opcode,)) + payload
            self._heard("")

    def _message(self, opcode: int, payload: bytes) -> None:
        self._heard(check_text(payload) if opcode == TEXT else "")

    def _client_closes(self, payload: bytes) -> None:
        code = check_close(payload)
        if not self._closing:
            self._closing = True
            self.transport.write(close_frame(1000 if code == 1005 else code))
            self._leave()
        self.transport.close()

    def eof_received(self) -> None:
        return None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=0)

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self.transport = NOWHERE
        if self._connections is not None:
            self._connections.discard(self)
        self._leave()

    def shutdown(self) -> None:
        """uvicorn calls this on every connection when it stops."""
        if not self._closing:
            self.close(ByeFrame(CloseCode.RESTART, "restart", reconnect=True))

    def adopt(self, transport: asyncio.Transport, connections: set[Any], received: bytes) -> None:
        """Take over a connection whose handshake is done, with what its client has
        already sent.
        """
        self._connections = connections
        connections.add(self)
        self.connection_made(transport)
        transport.set_protocol(self)
        if received:
            self.data_received(received)


class _Nowhere(asyncio.Transport):
    """Where a closed connection's last writes go; uvloop raises on a write to a closed
    transport.
    """

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
