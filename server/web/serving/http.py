"""A connection before it is a request: the bytes of a head, counted and timed.

uvicorn's parser accepts a head of any size (measured: 100 MiB) and waits for the rest
of one for ever. Here a head has at most :data:`MAX_HEAD_BYTES` (else 431) and is
complete after :data:`HEAD_SECONDS` (else 408); a connection without a single byte is
idle like any other. Bytes that are not HTTP are answered with a problem (RFC 9457),
too.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
import uuid
from typing import Any, ClassVar, Final, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.telemetry import logs
from server.web.common.problems import problem
from server.web.serving.handshake import Handshake, accept_key, response_head
from tryon.protocol.errors import BadRequest, TryOnError, Unavailable

MAX_HEAD_BYTES: Final = 64 * 1024
"""Maximum bytes of the request line and the header fields together.

For an unfinished head one read (256 KiB) may come on top.
"""

MAX_TARGET_BYTES: Final = 8 * 1024
"""Maximum bytes of the path and the query (RFC 9112 section 3 asks for 8,000)."""

MAX_FIELDS: Final = 128
"""Maximum header fields of a request; every look for one visits all of them."""

HEAD_SECONDS: Final = 10.0
"""Seconds from the first byte of a request to the end of its head."""

LINGER_SECONDS: Final = 2.0
"""Seconds that a refused client may still send.

If the connection closed at once, the kernel would reset it, and the answer would be
lost.
"""


FIRST_REQUEST_SECONDS: Final = 0.5
"""Seconds that a stopping server waits for the first request of a new connection.

Its client was connected before this process stopped listening, and sends at once.
"""

UNREAD_SECONDS: Final = 0.01
"""Seconds between two looks whether the bytes that have arrived are read."""

STOPPED_SECONDS: Final = 2
"""``Retry-After`` of a request that came too late: another process listens by then."""


class _WrongVersion(BadRequest):
    """Another version of WebSocket; the answer names ours (RFC 6455 section 4.2.2)."""

    status: ClassVar[int] = 426


class _HeadTooLarge(BadRequest):
    status: ClassVar[int] = 431


class _TargetTooLong(BadRequest):
    status: ClassVar[int] = 414


class _HeadTooLate(BadRequest):
    status: ClassVar[int] = 408


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on heads.

    Nothing is upgraded unless it follows RFC 6455 section 4.2.1.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._received = 0
        self._head_from = 0
        """Bytes received when the head began, including the read that it began in."""
        self._in_head = False
        self._awaits_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._refused = False
        """Whether the last answer is sent; bytes that still arrive are dropped."""
        self._draining = False

    @property
    def _running(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Start the idle timer: a connection without a single byte is closed, too."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._unset_keepalive_if_required()
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; refuse a head that is too large, malformed or an invalid upgrade."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._received += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, TryOnError) else BadRequest("bad_request", "Not valid HTTP."))
            return
        if self._in_head and self._received - self._head_from > MAX_HEAD_BYTES:
            self._refuse(_too_large())
        elif (
            self._awaits_head
            and not self._running
            and self._head_timer is None
            and self.timeout_keep_alive_task is None
        ):
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def on_message_begin(self) -> None:
        """Note where the head begins."""
        super().on_message_begin()
        self._in_head = self._awaits_head = True
        self._head_from = self._received

    def on_headers_complete(self) -> None:
        """Check the sizes of the whole head, which may have come in one piece."""
        self._in_head = self._awaits_head = False
        self._stop_head_timer()
        if len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers]) > MAX_HEAD_BYTES:
            raise _too_large()
        if len(self.headers) > MAX_FIELDS:
            raise _HeadTooLarge("bad_request", f"A request has at most {MAX_FIELDS} header fields.")
        if len(self.url) > MAX_TARGET_BYTES:
            raise _TargetTooLong("bad_request", f"The target of a request is at most {MAX_TARGET_BYTES} bytes.")
        super().on_headers_complete()
        if self._running and (self._draining or not self.cycle.keep_alive):
            self._make_last()

    def on_message_complete(self) -> None:
        """Expect the next head."""
        self._awaits_head = True
        super().on_message_complete()

    # -- the end of the connection -----------------------------------------------------

    def shutdown(self) -> None:
        """Answer a request that runs, has arrived or is about to, then close.

        The server calls this when it stops. An idle connection is closed at once, one
        without its first request after :data:`FIRST_REQUEST_SECONDS`.
        """
        if self._draining:
            return
        self._draining = True
        if self._running:
            self._make_last()
        else:
            self._close_unless_asked(FIRST_REQUEST_SECONDS if self.cycle is None or self._head_has_begun else 0.0)

    @property
    def _head_has_begun(self) -> bool:
        return self._in_head or self._head_timer is not None

    def _close_unless_asked(self, patience: float) -> None:
        if self.transport.is_closing() or self._refused or self._running:
            return  # a request that runs has the last answer
        if patience or _unread(self.transport):
            self.loop.call_later(patience or UNREAD_SECONDS, self._close_unless_asked, 0.0)
        elif self._head_has_begun:
            self._refuse(Unavailable(retry_after=STOPPED_SECONDS))
        else:
            self.transport.close()

    def _make_last(self) -> None:
        """Close after the answer to the current request."""
        self.cycle.keep_alive = False
        self.cycle.transport = cast(asyncio.Transport, _LastTransport(self))

    def end(self) -> None:
        """Close after the last answer, when a client that still sends can read it."""
        if self.cycle.response_complete and self.cycle.more_body:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        self._refused = True
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    # -- refusals ----------------------------------------------------------------------

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_late(self) -> None:
        self._head_timer = None
        self._refuse(_HeadTooLate("bad_request", "The head of the request was not complete in time."))

    def _upgrade(self, rest: bytes) -> None:
        """Hand a WebSocket handshake on, or refuse it; only HTTP/1.1 can be upgraded.

        ``rest``: bytes that the client sent after its head, before it got the answer.
        """
        if not self._should_upgrade():
            self._unsupported_upgrade_warning()
            return
        accept = accept_key(self.headers)
        if self._running:
            self._refuse(BadRequest("bad_request", "An upgrade cannot overtake the answer to an earlier request."))
        elif self.scope["http_version"] != "1.1":
            self._refuse(BadRequest("bad_request", "A WebSocket begins with HTTP/1.1 (RFC 6455 section 4.2.1)."))
        elif [version.strip() for name, version in self.headers if name == b"sec-websocket-version"] != [b"13"]:
            self._refuse(_WrongVersion("bad_request", "Only version 13 of the WebSocket protocol (RFC 6455)."))
        elif accept is None or self.scope["method"] != "GET":
            self._refuse(BadRequest("bad_request", "Not a valid WebSocket handshake."))
        elif issubclass(ours := cast(type, self.ws_protocol_class), Handshake):
            self.connections.discard(self)
            handshake = ours(self.config, self.server_state, self.app_state)
            handshake.begin(cast(Scope, self.scope), self.url, accept, self.transport, rest)
        else:
            self.handle_websocket_upgrade()

    def _refuse(self, error: TryOnError) -> None:
        """Answer, unless another answer is on its way, and close.

        Bytes that still arrive are dropped.
        """
        if self._refused or self.transport.is_closing():
            return
        self._stop_head_timer()
        cycle, running = self.cycle, self._running
        if not self.pipeline and not (running and cycle.response_started):
            self.transport.write(_answer(error))
        if running:
            cycle.disconnected = True
            cycle.message_event.set()
        self._linger()


class _LastTransport:
    """The transport of a connection's last answer, as the answering code uses it."""

    __slots__ = ("_protocol", "is_closing", "write")

    def __init__(self, protocol: HttpProtocol) -> None:
        self._protocol = protocol
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def __repr__(self) -> str:
        return f"<_LastTransport of {self._protocol!r}>"

    def close(self) -> None:
        self._protocol.end()


def _unread(transport: asyncio.Transport) -> bool:
    """Return whether the kernel holds bytes of the client that were not read yet."""
    waiting = bytearray(4)
    try:
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, waiting)
    except (AttributeError, OSError, ValueError):  # closed in the meantime
        return False
    return any(waiting)


def _too_large() -> TryOnError:
    return _HeadTooLarge("bad_request", f"The head of a request is at most {MAX_HEAD_BYTES} bytes.")


def _answer(error: TryOnError) -> bytes:
    rid = str(uuid.uuid4())  # uvicorn builds the protocol: no other source of chance reaches it
    more = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"} if isinstance(error, _WrongVersion) else {}
    token = logs.request_id.set(rid)
    try:
        response = problem(
            error, {"Connection": "close", "X-Request-ID": rid, "X-Content-Type-Options": "nosniff"} | more
        )
    finally:
        logs.request_id.reset(token)
    return response_head(response.status_code, response.raw_headers) + bytes(response.body)
