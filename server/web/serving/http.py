"""A connection before it is a request: the bytes of a head, counted and timed.

uvicorn's parser accepts a head of any size (measured: 100 MiB) and waits for the rest
of one for ever. Here a head has at most :data:`MAX_HEAD_BYTES` (else 431) and is
complete after :data:`HEAD_SECONDS` (else 408); a connection without a single byte is
idle like any other. Bytes that are not HTTP are answered with a problem (RFC 9457),
too.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, ClassVar, Final, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.telemetry import logs
from server.web.common.problems import problem
from server.web.serving.handshake import Handshake, accept_key, response_head
from tryon.protocol.errors import BadRequest, TryOnError

MAX_HEAD_BYTES: Final = 64 * 1024
"""Maximum bytes of the request line and the header fields together.

For an unfinished head one read (256 KiB) may come on top.
"""

HEAD_SECONDS: Final = 10.0
"""Seconds from the first byte of a request to the end of its head."""

LINGER_SECONDS: Final = 2.0
"""Seconds that a refused client may still send.

If the connection closed at once, the kernel would reset it, and the answer would be
lost.
"""


class _WrongVersion(BadRequest):
    """Another version of WebSocket; the answer names ours (RFC 6455 section 4.2.2)."""

    status: ClassVar[int] = 426


class _HeadTooLarge(BadRequest):
    status: ClassVar[int] = 431


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
            and (self.cycle is None or self.cycle.response_complete)
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
        """Check the size of the whole head, which may have come in one piece."""
        self._in_head = self._awaits_head = False
        self._stop_head_timer()
        if len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers]) > MAX_HEAD_BYTES:
            raise _too_large()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the next head."""
        self._awaits_head = True
        super().on_message_complete()

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
        if self.cycle is not None and not self.cycle.response_complete:
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
        self._refused = True
        self._stop_head_timer()
        cycle = self.cycle
        running = cycle is not None and not cycle.response_complete
        if not self.pipeline and not (running and cycle.response_started):
            self.transport.write(_answer(error))
        if running:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


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
