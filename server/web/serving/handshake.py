"""A WebSocket between its request and its 101, for uvicorn's ``ws=``.

:mod:`server.web.serving.http` has parsed the request once; it is not put together and
parsed again. An invalid handshake (RFC 6455 section 4.2.1) is refused before an
application sees it. The application accepts or refuses a valid one, and after accepting
it hands the connection on: ``tryon.detach`` among the ASGI extensions. There is no
other way to go on, because this protocol knows no frames. Compared with uvicorn's own
classes that saves half of a handshake's time and all of an idle connection's objects.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, ClassVar, Final

from starlette.types import ASGIApp, Message, Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from server.web.serving.heads import Head
from server.web.transports.wire import EXTENSION, NOWHERE, WireSocket
from tryon.protocol.errors import BadRequest

log = logging.getLogger("tryon.web")

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
EARLY_BYTES: Final = 16 * 1024
"""Bytes that a client may send before it is answered; then reading pauses.

One read may come on top.
"""

HeaderFields = Iterable[tuple[bytes, bytes]]


class WrongVersion(BadRequest):
    """Another version of WebSocket; the answer names ours (RFC 6455 section 4.2.2)."""

    status: ClassVar[int] = 426


def accept_of(head: Head) -> bytes:
    """Return ``Sec-WebSocket-Accept``; raise BadRequest for an invalid handshake.

    ``head``: one that asks for a WebSocket.
    """
    if head.version != "1.1":
        raise BadRequest("bad_request", "A WebSocket begins with HTTP/1.1 (RFC 6455 section 4.2.1).")
    if [value for name, value in head.headers if name == b"sec-websocket-version"] != [b"13"]:
        raise WrongVersion("bad_request", "Only version 13 of the WebSocket protocol (RFC 6455).")
    keys = [value for name, value in head.headers if name == b"sec-websocket-key"]
    if head.method != "GET" or head.length != 0 or len(keys) != 1 or not _is_key(keys[0]):
        raise BadRequest("bad_request", "Not a valid WebSocket handshake.")
    return b64encode(hashlib.sha1(keys[0] + _GUID, usedforsecurity=False).digest())


def _is_key(text: bytes) -> bool:
    """Return whether a text is 16 bytes in base64."""
    try:
        return len(text) == 24 and len(a2b_base64(text, strict_mode=True)) == 16
    except Base64Error:
        return False


class Handshake(asyncio.Protocol):
    """The protocol of one connection during its handshake.

    :class:`server.web.serving.http.HttpProtocol` makes it, with the arguments that
    uvicorn gives its own classes. ``leave``: called when the connection is no longer
    one of HTTP.
    """

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], leave: Callable[[], None]
    ) -> None:
        self._app: ASGIApp = config.loaded_app
        self._state = server_state
        self._leave = leave
        self._transport: asyncio.Transport = NOWHERE
        self._accept = b""
        self._early = b""
        """Bytes that came after the head; the successor reads them."""
        self._accepted = False
        self._answer: list[bytes] = []
        """A refusal that is being put together, from its head on."""
        self._asked = False
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        state = "lost" if self._lost.done() else "accepted" if self._accepted else "pending"
        return f"<Handshake {state} early={len(self._early)}>"

    def begin(self, request: Scope, accept: bytes, transport: asyncio.Transport, early: bytes) -> None:
        """Take over a connection, and let the application answer.

        ``request``: the ASGI scope of the HTTP request; it becomes the WebSocket's.
        ``accept``: the result of :func:`accept_of`. ``early``: bytes that came after
        the head.
        """
        self._transport, self._accept = transport, accept
        del request["method"]
        request.update(
            type="websocket",
            asgi={"version": "3.0", "spec_version": "2.4"},
            scheme="wss" if request["scheme"] == "https" else "ws",
            subprotocols=[
                token.strip().decode("latin-1")
                for name, value in request["headers"]
                if name == b"sec-websocket-protocol"
                for token in value.split(b",")
            ],
            extensions={"websocket.http.response": {}, EXTENSION: {"detach": self.detach}},
        )
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn calls only shutdown()
        task = asyncio.get_running_loop().create_task(self._run(request))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)
        transport.set_protocol(self)
        if early:
            self.data_received(early)

    async def _run(self, scope: Scope) -> None:
        try:
            await self._app(scope, self._receive, self._send)
        except Exception:
            log.exception("WebSocket handshake failed")
        finally:
            self._transport.close()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "websocket.connect"}
        await asyncio.shield(self._lost)
        return {"type": "websocket.disconnect", "code": 1006, "reason": ""}

    async def _send(self, message: Message) -> None:
        if self._lost.done():
            raise OSError("the client has disconnected")
        kind = message["type"]
        if kind == "websocket.accept":
            fields = [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Accept", self._accept)]
            if message.get("subprotocol"):
                fields.append((b"Sec-WebSocket-Protocol", message["subprotocol"].encode("latin-1")))
            self._accepted = True
            self._transport.write(response_head(101, [*fields, *message.get("headers", ())]))
        elif kind == "websocket.http.response.start":
            fields = [*self._state.default_headers, *message.get("headers", ()), (b"Connection", b"close")]
            self._answer = [response_head(message["status"], fields)]
        elif kind == "websocket.http.response.body":
            self._answer.append(message.get("body", b""))
            if not message.get("more_body"):
                self._transport.write(b"".join(self._answer))
                self._transport.close()
        else:  # websocket.close, before it was accepted
            self._transport.write(response_head(403, [(b"Content-Length", b"0"), (b"Connection", b"close")]))
            self._transport.close()

    def detach(self, successor: WireSocket) -> bool:
        """Hand the connection to ``successor``.

        Returns False if the connection is lost or was not accepted.
        """
        transport, early = self._transport, self._early
        if not self._accepted or self._lost.done() or transport.is_closing():
            return False
        if len(early) > EARLY_BYTES:
            transport.resume_reading()
        self._state.connections.discard(self)
        self._transport, self._early = NOWHERE, b""
        self._lost.set_result(None)
        self._leave()
        successor.adopt(transport, self._state.connections, early)
        return True

    # -- events of the connection ------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Keep early bytes for the successor, up to :data:`EARLY_BYTES`."""
        self._early += data
        if len(self._early) > EARLY_BYTES:
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """Report the disconnect to the application."""
        self._state.connections.discard(self)
        self._leave()
        self._transport = NOWHERE
        if not self._lost.done():
            self._lost.set_result(None)

    def shutdown(self) -> None:
        """Do nothing when the server stops: the application answers.

        It refuses the handshake, or tells a client that it has accepted to reconnect.
        """


def hand_over(protocol: Any, head: Head, transport: asyncio.Transport, early: bytes) -> None:
    """Give a connection to another class of WebSockets, as uvicorn does."""
    target = head.path + (b"?" + head.query if head.query else b"")
    lines = [b"GET %b HTTP/1.1\r\n" % target, *(b"%b: %b\r\n" % field for field in head.headers), b"\r\n", early]
    protocol.connection_made(transport)
    protocol.data_received(b"".join(lines))
    transport.set_protocol(protocol)


def response_head(status: int, fields: HeaderFields) -> bytes:
    """Return a status line with these header fields, and the empty line after them."""
    line = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
    return line + b"".join([b"%b: %b\r\n" % field for field in fields]) + b"\r\n"
