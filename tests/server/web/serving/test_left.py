"""Clients that have left before their request is read: it is not begun."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import AsyncIterator
from typing import Final

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from server.config.settings import Config
from server.web.serving.listening import listen
from server.web.serving.server import make_server
from server.web.serving.unanswered import Unanswered
from testkit.raw_http import Port, heard
from testkit.running import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells that a client has left (POLLRDHUP)")

GET: Final = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST: Final = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1"
UPGRADE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CLIENTS: Final = 5


class App:
    """An application that notes the requests it was asked to answer."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    async def answer(self, request: Request) -> Response:
        self.begun.append(request.method)
        return Response("heard")

    async def join(self, socket: WebSocket) -> None:
        self.begun.append("socket")
        await socket.close()


@contextlib.asynccontextmanager
async def serving(app: App) -> AsyncIterator[Port]:
    config = Config(port=0)
    listener = listen(config, reuse_port=False)
    routes = [Route("/", app.answer, methods=["GET", "POST"]), WebSocketRoute("/ws", app.join)]
    asgi = Starlette(routes=routes)
    asgi.state.unanswered = Unanswered()
    server = make_server(asgi, config)
    task = asyncio.create_task(server._serve(sockets=[listener]))
    await until(lambda: server.started)
    try:
        yield Port(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await task


def ask_and_leave(port: int, request: bytes, *, reset: bool) -> None:
    """Connect, send and close while the loop of the server, which is ours, is busy."""
    with socket.create_connection(("127.0.0.1", port)) as made:
        if reset:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.sendall(request)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("request_", [GET, UPGRADE], ids=["get", "handshake"])
async def test_request_is_not_begun_when_its_client_has_left(request_: bytes, reset: bool) -> None:
    """The one client that stayed is answered, and no other is."""
    app = App()
    async with serving(app) as server:
        for _ in range(CLIENTS):
            ask_and_leave(server.port, request_, reset=reset)
        answer = await heard(server, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert app.begun == ["GET"]


async def test_upload_is_begun_when_its_client_has_left() -> None:
    """A request that changes something is taken at its word."""
    app = App()
    async with serving(app) as server:
        ask_and_leave(server.port, POST, reset=False)
        await until(lambda: app.begun == ["POST"])
