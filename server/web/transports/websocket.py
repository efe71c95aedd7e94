"""``GET /api/tryon/sessions/{id}/ws``: the WebSocket, ``tryon.v1``.

The server speaks first and a client never has to: snapshot, then every transition and
progress, then ``bye`` and a close code that tells what to do. What a client sends is
counted, understood if it is ``sync`` or ``ping``, else ignored.

After the handshake the connection is detached where the server can do that
(:mod:`server.web.transports.wire`); elsewhere the same story is told by plain ASGI
messages. Either way a client is a :class:`Peer`, and everything that decides is here,
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Protocol

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from server.domain.session import timestamp, valid_session_id
from server.services import Services
from server.sessions.reads import Credential, SessionRead
from server.telemetry import metrics
from server.web.common.credentials import client_address, counted, credential_of, offered_subprotocols, origin_allowed
from server.web.common.problems import deny
from server.web.push.follower import Follower
from server.web.push.hub import Hub
from server.web.transports.outbox import MAX_SEQ, SEND_SECONDS, TOO_SLOW, Outbox, Places, cursor_of, ping_seconds
from server.web.transports.wire import EXTENSION, WireSocket
from tryon.protocol.close_codes import CloseCode, may_reconnect
from tryon.protocol.errors import BadRequest, TryOnError, Unavailable
from tryon.protocol.frames import SUBPROTOCOL, ByeFrame, ErrorFrame, PingFrame, PongFrame, SnapshotFrame, encode

log = logging.getLogger("tryon.web")

INBOUND_LIMIT: Final = 100
INBOUND_SECONDS: Final = 10.0
"""More than so many messages in any so many seconds is misuse: 4500."""

SYNC_SECONDS: Final = 1.0
"""One ``sync`` in this time is answered."""

_SNAPSHOTS: Final = metrics.frames.labels("snapshot")


class _Inbound(msgspec.Struct):
    type: str = ""
    since: int = 0


class Said:
    """What one client has said lately, and what it may see again: made when it speaks
    for the first time.
    """

    __slots__ = ("last_sync", "sync_since", "syncing", "times")

    def __init__(self) -> None:
        self.times: list[float] = []
        """When it spoke in the last :data:`INBOUND_SECONDS`."""
        self.last_sync = float("-inf")
        self.sync_since = 0
        self.syncing = False


class _ForeignOrigin(BadRequest):
    status: ClassVar[int] = 403


class Peer(Protocol):
    """A connected client, over either path."""

    session_id: str
    seq: int | None
    said: Said | None
    until: int | None

    def put(self, frame: bytes) -> None: ...
    def end(self, status: str) -> None: ...
    def close(self, bye: ByeFrame) -> None: ...


class _AsgiSocket(Outbox):
    """A client over plain ASGI messages."""

    __slots__ = ("said", "until")

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.said: Said | None = None
        self.until: int | None = None


class Sockets:
    """All WebSockets of one process."""

    def __init__(self, services: Services, hub: Hub, places: Places) -> None:
        self._services = services
        self._config = services.config
        self._sessions = services.sessions
        self._hub = hub
        self._places = places
        self._syncs: set[asyncio.Task[None]] = set()

    async def endpoint(self, socket: WebSocket) -> None:
        if not origin_allowed(socket, self._config):
            await deny(socket, _ForeignOrigin("bad_request", "This origin may not connect."))
            return
        if self._hub.draining or self._places.full:
            await deny(socket, Unavailable(retry_after=random.uniform(1, 5)))
            return
        address = counted(client_address(socket, self._config))
        refusal = self._places.refusal(address)
        self._places.take(address)
        if (detach := (socket.scope.get("extensions") or {}).get(EXTENSION)) is not None:
            await self._detached(
                socket, WireSocket(socket.path_params["session_id"], self, address), detach["detach"], refusal
            )
        else:
            try:
                with contextlib.suppress(WebSocketDisconnect, TimeoutError, OSError):
                    await self._serve(socket, socket.path_params["session_id"], refusal)
            finally:
                self._places.give_back(address)

    async def _accept(self, socket: WebSocket) -> None:
        await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered_subprotocols(socket) else None)

    # -- detached ----------------------------------------------------------------------

    async def _detached(
        self, socket: WebSocket, wire: WireSocket, detach: Callable[[WireSocket], bool], refusal: TryOnError | None
    ) -> None:
        """Join, read, then accept and send the snapshot: in one packet.

        From then on the hub writes and no task is left.
        """
        adopted = False
        try:
            look = await self._join(wire, socket, refusal)
            await self._accept(socket)
            if adopted := detach(wire):
                self._show(wire, look)
        except TryOnError as error:
            with contextlib.suppress(WebSocketDisconnect, OSError):
                await self._accept(socket)
                if adopted := detach(wire):
                    _refuse(wire, error)
        except (WebSocketDisconnect, OSError):
            pass
        except Exception:
            if adopted:
                wire.close(ByeFrame(CloseCode.RESYNC, "internal_error", reconnect=True))
            raise
        finally:
            if not adopted:  # it has gone, or nobody knows what to tell it
                self.left(wire)
            elif self._hub.draining:  # the others were told while this one could not be
                wire.drain(self._hub.return_ms())

    async def _join(self, wire: WireSocket, socket: WebSocket, refusal: TryOnError | None) -> SessionRead:
        if refusal is not None:
            raise refusal
        credential = credential_of(socket)
        if valid_session_id(wire.session_id):  # else there is nothing to follow; refused like any unknown one
            await self._hub.confirmation(self._hub.join(wire, transport="ws"))
        return await self._look(wire, credential, cursor_of(socket.query_params.get("since")))

    def heard(self, wire: WireSocket, text: str) -> None:
        """A detached client has said something."""
        if (said := self._hear(wire, text)) is not None:
            task = asyncio.create_task(self._sync(wire, said), name="ws-sync")
            self._syncs.add(task)
            task.add_done_callback(self._syncs.discard)

    def left(self, wire: WireSocket) -> None:
        """A detached client is gone, or about to be."""
        self._hub.leave(wire, transport="ws")
        self._places.give_back(wire.address)

    # -- over plain ASGI ---------------------------------------------------------------

    async def _serve(self, socket: WebSocket, session_id: str, refusal: TryOnError | None) -> None:
        peer = _AsgiSocket(session_id)
        await self._accept(socket)
        async with contextlib.AsyncExitStack() as stack:
            try:
                if refusal is not None:
                    raise refusal
                credential = credential_of(socket)
                if valid_session_id(session_id):
                    await stack.enter_async_context(self._hub.following(peer, transport="ws"))
                self._show(peer, await self._look(peer, credential, cursor_of(socket.query_params.get("since"))))
            except TryOnError as error:
                _refuse(peer, error)
            receiving = asyncio.create_task(self._receive(socket, peer), name="ws-receive")
            try:
                await self._send(socket, peer)
            finally:
                receiving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await receiving

    async def _send(self, socket: WebSocket, peer: Outbox) -> None:
        """Send what is in the outbox until it says bye or the client is gone."""
        while (frame := await peer.next()) is not None:
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await socket.send_text(frame.decode())
            except TimeoutError:
                peer.close(TOO_SLOW)
                break
        bye = peer.bye
        if bye is not None and bye.code != CloseCode.ABNORMAL and socket.client_state is WebSocketState.CONNECTED:
            metrics.closes.labels(str(bye.code)).inc()
            async with asyncio.timeout(1):
                await socket.send_text(encode(bye).decode())
                await socket.close(bye.code, bye.reason)

    async def _receive(self, socket: WebSocket, peer: _AsgiSocket) -> None:
        """Always reading, or the connection dies of its own pings.

        Ends when the client goes.
        """
        while True:
            message: dict[str, Any] = dict(await socket.receive())
            if message["type"] == "websocket.disconnect":
                peer.close(ByeFrame(CloseCode.ABNORMAL, "client_left", reconnect=True))
                return
            if (said := self._hear(peer, message.get("text") or "")) is not None:
                await self._sync(peer, said)

    # -- the same for both -------------------------------------------------------------

    async def _look(self, peer: Peer, credential: Credential, since: int | None) -> SessionRead:
        look = await self._sessions.reads.read(peer.session_id, credential, since=since)
        self._places.check_session(self._hub.followers_of(peer.session_id))
        peer.until = look.access.until
        return look

    def _show(self, peer: Peer, look: SessionRead) -> None:
        """Say what is true now, then let follow what came meanwhile."""
        peer.put(encode(SnapshotFrame(look.view, look.missed, ping_seconds(self._config))))
        _SNAPSHOTS.inc()
        if look.session.status.terminal:
            self._hub.deliveries.note_shown(look.session)
            peer.end(look.session.status.value)
        else:
            assert isinstance(peer, Follower)
            self._hub.release(peer, look.session)

    def _hear(self, peer: Peer, text: str) -> Said | None:
        """Count it and answer a ping.

        Not None: it was a ``sync`` that is to be answered.

        Nothing is answered before the snapshot: only then is it known that this client
        may see the session.
        """
        now = time.monotonic()
        said = peer.said
        if said is None:
            said = peer.said = Said()
        said.times = [at for at in said.times if now - at < INBOUND_SECONDS]
        said.times.append(now)
        if len(said.times) > INBOUND_LIMIT:
            peer.close(ByeFrame(CloseCode.MISUSE, "misuse", reconnect=False))
            return None
        if peer.seq is None and not said.syncing:  # not let in (yet)
            return None
        try:
            inbound = msgspec.json.decode(text, type=_Inbound)
        except msgspec.MsgspecError:
            return None
        if inbound.type == "ping":
            peer.put(encode(PongFrame(self._now())))
        elif inbound.type == "sync" and not said.syncing and now - said.last_sync >= SYNC_SECONDS:
            said.last_sync = now
            said.sync_since = min(max(0, inbound.since), MAX_SEQ)
            said.syncing = True  # one at a time: what a slower one read must not follow what a quicker one sent
            return said
        return None

    def _now(self) -> str:
        return timestamp(datetime.fromtimestamp(self._services.database.clock.now(), UTC))

    async def _sync(self, peer: Peer, said: Said) -> None:
        """A new snapshot for a client that woke up.

        News are held from before the read, so that no snapshot steps back behind an
        event already sent. While the database is away there is none: a ``ping`` says
        that the connection lives, and what is new comes when it can be read.
        """
        assert isinstance(peer, Follower)
        before, peer.seq = peer.seq, None
        try:
            self._show(
                peer, await self._sessions.reads.read_again(peer.session_id, until=peer.until, since=said.sync_since)
            )
        except Unavailable:
            if before is not None:
                self._hub.resume(peer, before)
            peer.put(encode(PingFrame(self._now())))
        except TryOnError as error:
            peer.close(_bye_of(error))
        except Exception:
            log.exception("A sync failed")
            peer.close(ByeFrame(CloseCode.RESYNC, "internal_error", reconnect=True))
        finally:
            said.syncing = False


def _bye_of(error: TryOnError) -> ByeFrame:
    retry_after_ms = None if error.retry_after is None else int(error.retry_after * 1000)
    return ByeFrame(
        error.close_code, error.code, reconnect=may_reconnect(error.close_code), retry_after_ms=retry_after_ms
    )


def _refuse(peer: Peer, error: TryOnError) -> None:
    """A refusal that a person should understand: accepted, told, closed."""
    peer.put(encode(ErrorFrame(error.code, error.detail)))
    peer.close(_bye_of(error))
