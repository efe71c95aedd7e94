"""WebSocket only: a socket over ASGI, on a server that cannot detach connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketState

from server.telemetry import metrics
from server.web.transports.listener import TOO_SLOW
from server.web.transports.outbox import SEND_SECONDS, Outbox
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.frames import bye, encode

LAST_SECONDS: Final = 1.0
"""Maximum time for ``bye`` and the close frame."""


async def serve(socket: WebSocket, outbox: Outbox, heard: Callable[[str], Awaitable[None]]) -> None:
    """Send from the outbox of one accepted socket until its end or the client's.

    ``heard``: takes what the client sends, one message after the other; "" stands for
    one that is no text. Raises WebSocketDisconnect, TimeoutError and OSError when the
    client is lost.
    """
    receiving = asyncio.create_task(_receive(socket, outbox, heard), name="ws-receive")
    try:
        await _send(socket, outbox)
    finally:
        receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await receiving


async def _send(socket: WebSocket, outbox: Outbox) -> None:
    """Send from the outbox until its ``bye`` or the end of the connection."""
    while (frame := await outbox.next()) is not None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await socket.send_text(frame.decode())
        except TimeoutError:
            outbox.close(TOO_SLOW)
            break
    last = outbox.bye
    if last is not None and last.code != CloseCode.ABNORMAL and socket.client_state is WebSocketState.CONNECTED:
        metrics.closes.labels(str(last.code)).inc()
        async with asyncio.timeout(LAST_SECONDS):
            await socket.send_text(encode(last).decode())
            await socket.close(last.code, last.reason)


async def _receive(socket: WebSocket, outbox: Outbox, heard: Callable[[str], Awaitable[None]]) -> None:
    """Receive until the client disconnects; else unread pings end the connection."""
    while True:
        message: dict[str, Any] = dict(await socket.receive())
        if message["type"] == "websocket.disconnect":
            outbox.close(bye(CloseCode.ABNORMAL, "client_left"))
            return
        await heard(message.get("text") or "")
