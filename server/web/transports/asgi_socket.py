"""WebSocket only: a socket over ASGI, on a server that cannot detach connections."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketState

from server.telemetry import metrics
from server.web.common.credentials import credential_of
from server.web.common.fields import query
from server.web.transports.conversation import Conversation, refuse
from server.web.transports.joining import Joining, cursor_of
from server.web.transports.listener import TOO_SLOW
from server.web.transports.outbox import SEND_SECONDS, Outbox
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.errors import TryOnError
from tryon.protocol.frames import bye, encode

LAST_SECONDS: Final = 1.0
"""Maximum time for ``bye`` and the close frame."""


async def serve(socket: WebSocket, *, joining: Joining, conversation: Conversation, refusal: TryOnError | None) -> None:
    """Serve one accepted socket until the session's end or the client's.

    ``refusal``: why the client may not follow, if that is known already. Raises
    WebSocketDisconnect, TimeoutError and OSError when the client is lost.
    """
    outbox = Outbox(socket.path_params["session_id"])
    async with contextlib.AsyncExitStack() as stack:
        try:
            if refusal is not None:
                raise refusal
            since = cursor_of(query(socket.scope).get("since"))
            read = await stack.enter_async_context(
                joining.joined(outbox, credential_of(socket), since=since, transport="ws")
            )
            outbox.until = read.access.until
            joining.show(outbox, read)
        except TryOnError as error:
            refuse(outbox, error)
        receiving = asyncio.create_task(_receive(socket, outbox, conversation), name="ws-receive")
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


async def _receive(socket: WebSocket, outbox: Outbox, conversation: Conversation) -> None:
    """Receive until the client disconnects; else unread pings end the connection."""
    while True:
        message: dict[str, Any] = dict(await socket.receive())
        if message["type"] == "websocket.disconnect":
            outbox.close(bye(CloseCode.ABNORMAL, "client_left"))
            return
        if conversation.receive(outbox, message.get("text") or ""):
            await conversation.resync(outbox)
