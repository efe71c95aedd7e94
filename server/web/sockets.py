"""``GET /api/tryon/sessions/{id}/ws``: the WebSocket, ``tryon.v1``.

The server speaks first and a client never has to: snapshot, then every transition and progress, then ``bye`` and a close
code that tells what to do. What a client sends is counted, understood if it is ``sync`` or ``ping``, else ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from .. import telemetry
from ..domain.errors import TryOnError, Unavailable
from ..domain.events import SUBPROTOCOL, ByeFrame, ErrorFrame, PongFrame, SnapshotFrame, encode
from ..domain.session import timestamp
from ..services import Services
from ..sessions import Credential
from .credentials import client_address, credential_of, offered_subprotocols, origin_allowed
from .hub import Hub
from .outbox import SEND_SECONDS, TOO_SLOW, Outbox, Places, cursor_of, ping_seconds
from .problems import problem

log = logging.getLogger("tryon.web")

INBOUND_LIMIT: Final = 100
INBOUND_SECONDS: Final = 10.0
"""More than so many messages in so many seconds is misuse: 4500."""

SYNC_SECONDS: Final = 1.0
"""One ``sync`` in this time is answered."""


class _Inbound(msgspec.Struct):
    type: str = ""
    since: int = 0


class Sockets:
    """All WebSockets of one process."""

    def __init__(self, services: Services, hub: Hub, places: Places) -> None:
        self._services = services
        self._config = services.config
        self._hub = hub
        self._places = places

    async def endpoint(self, socket: WebSocket) -> None:
        if not origin_allowed(socket, self._config):
            await socket.send_denial_response(PlainTextResponse("This origin may not connect.", 403))
            return
        if self._hub.draining or self._places.full:
            await socket.send_denial_response(problem(Unavailable(retry_after=random.uniform(1, 5))))
            return
        address = client_address(socket, self._config)
        session_id = socket.path_params["session_id"]
        refusal = self._places.refusal(address, self._hub.followers_of(session_id))
        with self._places.taken(address), contextlib.suppress(WebSocketDisconnect, TimeoutError, OSError):
            offered = offered_subprotocols(socket)
            await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
            try:
                if refusal is not None:
                    raise refusal
                await self._follow(socket, session_id, credential_of(socket))
            except TryOnError as error:
                await _refuse(socket, error)

    async def _follow(self, socket: WebSocket, session_id: str, credential: Credential) -> None:
        outbox = Outbox(session_id)
        since = cursor_of(socket.query_params.get("since"))
        async with self._hub.following(outbox, transport="ws"):
            await self._send_snapshot(outbox, credential, since)
            receiving = asyncio.create_task(self._receive(socket, outbox, credential), name="ws-receive")
            try:
                await self._send(socket, outbox)
            finally:
                receiving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await receiving

    async def _send_snapshot(self, outbox: Outbox, credential: Credential, since: int | None) -> None:
        """Read what is true now, say it, then let follow what came meanwhile.

        News are held from before the read, also on ``sync``: a snapshot never steps back behind an event already sent.
        """
        outbox.seq = None
        look = await self._services.sessions.look(outbox.session_id, credential, since=since)
        outbox.put(encode(SnapshotFrame(look.view, look.missed, ping_seconds(self._config))))
        telemetry.frames.labels("snapshot").inc()
        if look.session.status.terminal:
            outbox.end(look.session.status.value)
        else:
            self._hub.release(outbox, look.session)

    async def _send(self, socket: WebSocket, outbox: Outbox) -> None:
        """Send what is in the outbox until it says bye or the client is gone."""
        while (frame := await outbox.next()) is not None:
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await socket.send_text(frame.decode())
            except TimeoutError:
                outbox.close(TOO_SLOW)
                break
        if outbox.bye is not None:
            await _say_bye(socket, outbox.bye)

    async def _receive(self, socket: WebSocket, outbox: Outbox, credential: Credential) -> None:
        """Always reading, or the connection dies of its own pings. Ends when the client goes."""
        recent: deque[float] = deque(maxlen=INBOUND_LIMIT)
        last_sync = float("-inf")
        while True:
            message: dict[str, Any] = dict(await socket.receive())
            if message["type"] == "websocket.disconnect":
                outbox.close(ByeFrame(1006, "client_left", reconnect=True))
                return
            now = time.monotonic()
            if len(recent) == INBOUND_LIMIT and now - recent[0] < INBOUND_SECONDS:
                outbox.close(ByeFrame(4500, "misuse", reconnect=False))
                return
            recent.append(now)
            try:
                inbound = msgspec.json.decode(message.get("text") or b"", type=_Inbound)
            except msgspec.MsgspecError:
                continue
            if inbound.type == "ping":
                at = datetime.fromtimestamp(self._services.store.now(), UTC)
                outbox.put(encode(PongFrame(timestamp(at))))
            elif inbound.type == "sync" and now - last_sync >= SYNC_SECONDS:
                last_sync = now
                try:
                    await self._send_snapshot(outbox, credential, max(0, inbound.since))
                except TryOnError as error:
                    outbox.close(_bye_of(error))


def _bye_of(error: TryOnError) -> ByeFrame:
    retry_after_ms = None if error.retry_after is None else int(error.retry_after * 1000)
    return ByeFrame(error.close_code, error.code, reconnect=error.close_code < 4500, retry_after_ms=retry_after_ms)


async def _refuse(socket: WebSocket, error: TryOnError) -> None:
    """A refusal that a person should understand: accepted, told, closed."""
    await socket.send_text(encode(ErrorFrame(error.code, error.detail)).decode())
    await _say_bye(socket, _bye_of(error))


async def _say_bye(socket: WebSocket, bye: ByeFrame) -> None:
    if socket.client_state is not WebSocketState.CONNECTED or bye.code == 1006:
        return
    telemetry.closes.labels(str(bye.code)).inc()
    async with asyncio.timeout(1):
        await socket.send_text(encode(bye).decode())
        await socket.close(bye.code, bye.reason)
