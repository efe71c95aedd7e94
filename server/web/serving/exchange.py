"""One request and its answer: the ASGI messages between a connection and the app.

A connection has one exchange at a time, so each learns of a lost connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from http import HTTPStatus
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Scope
from uvicorn.server import ServerState

from server.web.serving.heads import Head, HeaderFields
from server.web.serving.pace import FLOOR_BYTES, Pace
from tryon.protocol.errors import InternalError, TryOnError

log = logging.getLogger("tryon.web")

HIGH_WATER_BYTES: Final = 64 * 1024
"""Bytes of a body that wait for the application; then reading pauses.

One read may come on top.
"""

REST_SECONDS: Final = 30.0
"""Longest wait for the rest of a body before the answer is sent all the same."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_BAD_NAME: Final = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BODILESS: Final = frozenset({204, 304})


class Connection(Protocol):
    """The connection of an exchange, as the exchange uses it."""

    def keeps(self, exchange: Exchange) -> bool:
        """Return whether the connection stays open after this answer."""

    def advance(self) -> None:
        """Read on: the application waits for more of the body."""

    def answered(self) -> None:
        """Go on after the last byte of the answer."""

    def refuse(self, error: TryOnError) -> None:
        """Answer, unless the answer has begun, and close."""


class Exchange:
    """One request that the application answers."""

    __slots__ = (
        "_arrived",
        "_bare",
        "_chunked",
        "_connection",
        "_content",
        "_dropped_before",
        "_left",
        "_pace",
        "_patient",
        "_server",
        "complete",
        "disconnected",
        "dropped",
        "dropping",
        "ended",
        "head",
        "keep_alive",
        "pending",
        "scope",
        "started",
        "uninvited",
    )

    def __init__(
        self,
        connection: Connection,
        pace: Pace,
        server: ServerState,
        head: Head,
        scope: Scope,
        *,
        ended: bool,
        patient: bool = False,
    ) -> None:
        self._connection = connection
        self._pace = pace
        self._server = server
        self.head = head
        self.scope = scope
        self.keep_alive = head.keep_alive
        self.uninvited = head.expects_continue and not ended
        """Whether the client waits for ``100 Continue`` before it sends the body."""
        self.disconnected = False
        self._content: list[bytes] = []
        self.pending = 0
        """Bytes of the body that wait for the application."""
        self.ended = ended
        """Whether the whole body has arrived."""
        self._patient = patient
        """Whether an answer waits for the rest of the body."""
        self.dropping = False
        """Whether the application no longer reads the body."""
        self.dropped = 0
        """Bytes of the connection that came since then."""
        self._dropped_before = 0
        self._arrived = asyncio.Event()
        if ended:
            self._arrived.set()
        self.started = False
        self.complete = False
        """Whether the answer is complete."""
        self._bare = head.method == "HEAD"
        self._chunked = False
        self._left: int | None = None
        """Bytes of the answer that are still to come, if it has a length."""

    def __repr__(self) -> str:
        state = "complete" if self.complete else "started" if self.started else "unanswered"
        return f"<Exchange {self.head.method} {state} pending={self.pending}>"

    # -- what the connection calls -----------------------------------------------------

    async def run(self, app: ASGIApp) -> None:
        """Let the application answer; end the connection of a half answer."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:
            if not self.started:  # else the application has logged it
                log.exception("Request failed outside of the application")
        finally:
            if not self.complete and not self.disconnected:
                self._connection.refuse(InternalError())

    def body(self, content: bytes, *, size: int, ended: bool) -> None:
        """Take a piece of the body, which is dropped once the answer is known.

        ``size``: bytes of the connection that it took.
        """
        self.ended = ended
        if self.dropping:
            self.dropped += size
        elif content:
            self.uninvited = False
            self._content.append(content)
            self.pending += len(content)
        self._arrived.set()

    def is_slow(self) -> bool:
        """Return whether too few bytes were dropped since the last call."""
        before, self._dropped_before = self._dropped_before, self.dropped
        return self.dropped - before < FLOOR_BYTES

    def give_up_rest(self) -> bool:
        """Wait no longer for the rest of a body that is too long or comes too slowly.

        Returns whether the answer is complete.
        """
        self._patient = False
        self._arrived.set()
        return self.complete

    def disconnect(self) -> None:
        """Learn that the connection is lost."""
        self.disconnected = True
        self._content.clear()
        self.pending = 0
        self._arrived.set()

    # -- what the application calls ----------------------------------------------------

    async def receive(self) -> Message:
        """Return what has arrived of the body, or the end of the connection."""
        self._invite()
        if not self.disconnected and not self.complete:
            if not self.pending:
                self._connection.advance()
            await self._arrived.wait()
            self._arrived.clear()
        if self.disconnected or self.complete:
            return {"type": "http.disconnect"}
        content = b"".join(self._content)
        self._content.clear()
        self.pending = 0
        return {"type": "http.request", "body": content, "more_body": not self.ended}

    def _invite(self) -> None:
        if self.uninvited and not self.started and not self.disconnected:
            self.uninvited = False
            self._pace.write(CONTINUE)

    async def send(self, message: Message) -> None:
        """Write a part of the answer, as soon as the client has taken the last one."""
        await self._pace.drain()
        if self._patient and not (self.started or self.ended):
            self._invite()  # the proxy may have invited its client already
            if self._connection.keeps(self):
                await self._drop_rest()
        if self.disconnected:
            return
        if self.complete or (message["type"] == "http.response.start") == self.started:
            raise RuntimeError(f"{message['type']} does not fit here")
        if not self.started:
            self._start(message["status"], message.get("headers") or ())
        else:
            self._write(message.get("body", b""), last=not message.get("more_body", False))

    async def _drop_rest(self) -> None:
        """Wait for the end of the body, which the application no longer reads.

        A proxy that gets an answer before it has passed the body on may cut the answer
        off (Caddy 2.6), or give the body up and send the next client's request on the
        connection, in the middle of the body (HAProxy 2.6 with HTTP/2).
        """
        self._drop()
        self._connection.advance()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REST_SECONDS):
                while self._patient and not (self.ended or self.disconnected):
                    self._arrived.clear()
                    await self._arrived.wait()

    def _drop(self) -> None:
        self.dropping = True
        self._content.clear()
        self.pending = 0

    def _start(self, status: int, fields: HeaderFields | tuple[()]) -> None:
        """Write the head; the answer's length, chunks or the close end its body."""
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())]
        close = False
        for name, value in (*self._server.default_headers, *fields):
            if _BAD_NAME.search(name) or _BAD_VALUE.search(value):
                raise RuntimeError("invalid header field")
            lower = name.lower()
            if lower == b"content-length":
                self._left = int(value)
            elif lower == b"connection" and b"close" in value.lower():
                close = True
            lines.append(b"%b: %b\r\n" % (name, value))
        self._bare = self._bare or status in _BODILESS
        if self._left is None and not self._bare:
            self._chunked = self.head.version == "1.1"
            self.keep_alive = self.keep_alive and self._chunked
        given_up = self.dropping and not self.ended
        self.keep_alive = not close and not given_up and self.keep_alive and self._connection.keeps(self)
        if self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive and not close:
            lines.append(b"connection: close\r\n")
        elif self.keep_alive and self.head.version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        self.started = True
        self._pace.write(b"".join(lines))

    def _write(self, data: bytes, *, last: bool) -> None:
        if self._bare:
            pass
        elif self._chunked:
            framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            if framed or last:
                self._pace.write(framed + b"0\r\n\r\n" if last else framed)
        else:
            if self._left is not None:
                self._left -= len(data)
                if self._left < 0 or (last and self._left):
                    raise RuntimeError("the answer has another length than its Content-Length")
            if data:
                self._pace.write(data)
        if last:
            self.complete = True
            if not self.dropping:
                self._drop()
            self._arrived.set()
            self._connection.answered()
