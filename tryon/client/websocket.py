"""WebSockets for implementations of the port, by the websockets library."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from tryon.client.network import NoAnswer, SocketClosed, SocketRefused, retry_after
from tryon.protocol.close_codes import CloseCode

CLOSE_SECONDS = 0.5
"""Longest wait for the server's close frame when the client leaves first."""


class _Connect(connect):
    """A handshake that ends with the answer to its first request.

    The library follows redirects, also to other hosts, and offers the same subprotocols
    there: one of them is the owner's token.
    """

    def process_redirect(self, exc: Exception) -> Exception:
        """Return the refusal itself, wherever it points to."""
        return exc


class WebSocket:
    """A :class:`~tryon.client.network.Socket`; ``connection`` is the library's."""

    __slots__ = ("connection",)

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def __repr__(self) -> str:
        return f"<WebSocket {self.connection.state.name} {self.connection.remote_address}>"

    async def receive(self) -> str | bytes:
        """Return the next message. Raises SocketClosed."""
        try:
            return await self.connection.recv()
        except ConnectionClosed:
            raise SocketClosed(self.connection.close_code or CloseCode.ABNORMAL) from None

    async def send(self, message: str) -> None:
        """Send a text message; a closed socket drops it.

        So a caller that sends still reads the frames before the close.
        """
        with contextlib.suppress(ConnectionClosed):
            await self.connection.send(message)


async def open_websocket(url: str, *, subprotocols: Sequence[str], seconds: float, **options: Any) -> WebSocket:
    """Return an open WebSocket; ``options`` go to the library. Raises NoAnswer.

    The library's pings and compression are off: the server pings, and deflate costs it
    59 KB a connection.
    """
    try:
        connection = await _Connect(
            url,
            subprotocols=subprotocols,  # type: ignore[arg-type]  # a NewType of str
            ping_interval=None,
            compression=None,
            open_timeout=seconds,
            close_timeout=CLOSE_SECONDS,
            **options,
        )
    except InvalidStatus as error:
        response = error.response
        raise SocketRefused(
            response.status_code, retry_after({name.lower(): value for name, value in response.headers.raw_items()})
        ) from None
    except (OSError, TimeoutError, WebSocketException) as error:
        raise NoAnswer(type(error).__name__) from None
    return WebSocket(connection)
