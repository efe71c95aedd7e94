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
from collections import Counter, deque
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from starlette.responses import PlainTextResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from .. import telemetry
from ..config import Config
from ..domain.errors import RateLimited, TryOnError, Unavailable
from ..domain.events import (
    SUBPROTOCOL,
    ByeFrame,
    ErrorFrame,
    PongFrame,
    SnapshotFrame,
    encode,
)
from ..domain.session import timestamp
from ..domain.states import GoneReason
from ..services import Services
from ..sessions import Credential
from .credentials import client_address, credential_of, offered_subprotocols, origin_allowed
from .hub import Follower, Hub
from .problems import problem

log = logging.getLogger("tryon.web")

INBOUND_LIMIT: Final = 100
INBOUND_SECONDS: Final = 10.0
"""More than so many messages in so many seconds is misuse: 4500."""

SYNC_SECONDS: Final = 1.0
"""One ``sync`` in this time is answered."""

SEND_SECONDS: Final = 10.0
"""A client that does not take a frame for so long is closed with 4002."""

OUTBOX_FRAMES: Final = 256
"""Unsent frames of one client; more means it does not read: 4002."""

WAITING: Final = ByeFrame(4002, "too_slow", reconnect=True)


class _Inbound(msgspec.Struct):
    type: str = ""
    since: int = 0


class Outbox(Follower):
    """What is still to be sent to one client, in order; at most one progress or ping waits, the newest."""

    __slots__ = ("_frames", "_news", "bye", "last_is_news")

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self._frames: deque[bytes] = deque()
        self._news = asyncio.Event()
        self.last_is_news = False
        """Whether the last unsent frame is progress or a ping, which a newer one may replace."""
        self.bye: ByeFrame | None = None

    def put(self, frame: bytes) -> None:
        if self.bye is not None:
            return
        if len(self._frames) >= OUTBOX_FRAMES:
            self.close(WAITING)
            return
        self._frames.append(frame)
        self.last_is_news = False
        self._news.set()

    def _put_news(self, frame: bytes) -> None:
        if self.last_is_news and self._frames:
            self._frames.pop()
        self.put(frame)
        self.last_is_news = True

    def event(self, frame: bytes) -> None:
        telemetry.frames.labels("event").inc()
        self.put(frame)

    def progress(self, frame: bytes) -> None:
        telemetry.frames.labels("progress").inc()
        self._put_news(frame)

    def ping(self, frame: bytes) -> None:
        telemetry.frames.labels("ping").inc()
        if not self._frames:
            self._put_news(frame)

    def end(self, status: str) -> None:
        self.close(ByeFrame(1000, status, reconnect=False))

    def gone(self, reason: GoneReason) -> None:
        self.close(ByeFrame(4510, reason.value, reconnect=False))

    def drain(self, retry_after_ms: int) -> None:
        self.close(ByeFrame(4000, "draining", reconnect=True, retry_after_ms=retry_after_ms))

    def close(self, bye: ByeFrame) -> None:
        """After what is unsent, say this and close. The first word counts."""
        if self.bye is None:
            self.bye = bye
            self._news.set()

    async def next(self) -> bytes | None:
        """The next frame; None: nothing more comes, see ``bye``."""
        while not self._frames:
            if self.bye is not None:
                return None
            self._news.clear()
            await self._news.wait()
        return self._frames.popleft()


class Sockets:
    """All WebSockets of one process, within its limits."""

    def __init__(self, services: Services, hub: Hub) -> None:
        self._services = services
        self._config: Config = services.config
        self._hub = hub
        self._per_address: Counter[str] = Counter()
        self._open = 0

    def __repr__(self) -> str:
        return f"<Sockets open={self._open}>"

    async def endpoint(self, socket: WebSocket) -> None:
        if not origin_allowed(socket, self._config):
            await socket.send_denial_response(_forbidden())
            return
        if self._hub.draining or self._open >= self._config.sockets_per_process:
            await socket.send_denial_response(problem(Unavailable(retry_after=random.uniform(1, 5))))
            return
        address = client_address(socket, self._config)
        self._open += 1
        self._per_address[address] += 1
        try:
            offered = offered_subprotocols(socket)
            await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
            try:
                if self._per_address[address] > self._config.sockets_per_address:
                    raise RateLimited(detail="Too many open connections from this address.", retry_after=5)
                await self._follow(socket, socket.path_params["session_id"], credential_of(socket))
            except TryOnError as error:
                await _refuse(socket, error)
        except (WebSocketDisconnect, TimeoutError, OSError):
            pass
        finally:
            self._open -= 1
            self._per_address[address] -= 1
            if not self._per_address[address]:
                del self._per_address[address]

    async def _follow(self, socket: WebSocket, session_id: str, credential: Credential) -> None:
        if self._hub.followers_of(session_id) >= self._config.sockets_per_session:
            raise RateLimited(detail="Too many open connections to this session.", retry_after=5)
        outbox = Outbox(session_id)
        since = _since(socket.query_params.get("since"))
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
        period = self._config.ping_seconds
        ping_seconds = int(period) if period == int(period) else period
        outbox.put(encode(SnapshotFrame(look.view, look.missed, ping_seconds)))
        telemetry.frames.labels("snapshot").inc()
        if look.session.status.terminal:
            outbox.end(look.session.status.value)
        else:
            self._hub.release(outbox, look.session.seq)

    async def _send(self, socket: WebSocket, outbox: Outbox) -> None:
        """Send what is in the outbox until it says bye or the client is gone."""
        while (frame := await outbox.next()) is not None:
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await socket.send_text(frame.decode())
            except TimeoutError:
                outbox.close(WAITING)
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


def _since(text: str | None) -> int | None:
    if text is None:
        return None
    return min(int(text), 2**31 - 1) if text.isascii() and text.isdigit() and len(text) < 20 else 0


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


def _forbidden() -> Response:
    return PlainTextResponse("This origin may not connect.", 403)
