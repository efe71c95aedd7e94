"""``GET /api/tryon/sessions/{id}/ws``: the WebSocket, ``tryon.v1``.

The server speaks first and a client never has to: snapshot, then every transition and
progress, then ``bye`` and a close code that tells the client how to go on. Messages of
the client are counted; ``sync`` and ``ping`` are answered, everything else is ignored.

After the handshake the connection is detached where the server can do that
(:mod:`server.web.transports.wire`); elsewhere the same frames go out as plain ASGI
messages (:mod:`server.web.transports.asgi_socket`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from typing import ClassVar

from starlette.websockets import WebSocket, WebSocketDisconnect

from server.services import Services
from server.web.common.credentials import client_address, counted, credential_of, offered_subprotocols
from server.web.common.fields import query
from server.web.common.origins import origin_allowed
from server.web.common.problems import deny
from server.web.push.hub import Hub
from server.web.transports import asgi_socket
from server.web.transports.connection_limits import ConnectionLimits
from server.web.transports.conversation import Conversation, refuse
from server.web.transports.joining import Joining, cursor_of
from server.web.transports.outbox import Outbox
from server.web.transports.wire import EXTENSION, WireSocket
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.errors import BadRequest, TryOnError, Unavailable
from tryon.protocol.frames import SUBPROTOCOL, bye


class _ForeignOrigin(BadRequest):
    status: ClassVar[int] = 403


class Sockets:
    """The WebSockets of one process, from handshake to goodbye."""

    def __init__(self, services: Services, hub: Hub, limits: ConnectionLimits, joining: Joining) -> None:
        self._config = services.config
        self._clock = services.clock
        self._randomness = services.randomness
        self._hub = hub
        self._limits = limits
        self._joining = joining
        self._conversation = Conversation(joining=joining, clock=services.clock, database_clock=services.database.clock)
        self._resyncs: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Sockets {self._limits!r} resyncs={len(self._resyncs)}>"

    async def endpoint(self, socket: WebSocket) -> None:
        """Serve one WebSocket from its handshake on."""
        if not origin_allowed(socket, self._config):
            await deny(socket, _ForeignOrigin("bad_request", "This origin may not connect."))
            return
        if self._hub.draining or self._limits.full:
            await deny(socket, Unavailable(retry_after=self._randomness.uniform(1, 5)))
            return
        address = counted(client_address(socket, self._config))
        refusal = self._limits.refusal(address)
        self._limits.take(address)
        if (detach := (socket.scope.get("extensions") or {}).get(EXTENSION)) is not None:
            await self._detached(socket, self._wire(socket, address), detach["detach"], refusal)
        else:
            try:
                with contextlib.suppress(WebSocketDisconnect, TimeoutError, OSError):
                    await accept(socket)
                    await self._attached(socket, refusal)
            finally:
                self._limits.give_back(address)

    def _wire(self, socket: WebSocket, address: str) -> WireSocket:
        """Return the client of a socket that can be detached."""
        return WireSocket(socket.path_params["session_id"], self, address, self._clock)

    async def _attached(self, socket: WebSocket, refusal: TryOnError | None) -> None:
        """Serve an accepted socket over ASGI."""
        outbox = Outbox(socket.path_params["session_id"])

        async def heard(text: str) -> None:
            if self._conversation.receive(outbox, text):
                await self._conversation.resync(outbox)

        async with contextlib.AsyncExitStack() as stack:
            try:
                if refusal is not None:
                    raise refusal
                since = cursor_of(query(socket.scope).get("since"))
                joined = self._joining.joined(outbox, credential_of(socket), since=since, transport="ws")
                read = await stack.enter_async_context(joined)
                outbox.until = read.access.until
                self._joining.show(outbox, read)
            except TryOnError as error:
                refuse(outbox, error)
            await asgi_socket.serve(socket, outbox, heard)

    async def _detached(
        self, socket: WebSocket, wire: WireSocket, detach: Callable[[WireSocket], bool], refusal: TryOnError | None
    ) -> None:
        """Join and read, then accept and send the snapshot, in one packet.

        From then on the hub writes and no task is left.
        """
        adopted = False
        try:
            show = await self._join(socket, wire, refusal)
            await accept(socket)
            if adopted := detach(wire):
                show()
        except TryOnError as error:
            with contextlib.suppress(WebSocketDisconnect, OSError):
                await accept(socket)
                if adopted := detach(wire):
                    refuse(wire, error)
        except (WebSocketDisconnect, OSError):
            pass
        except Exception:
            if adopted:
                wire.close(bye(CloseCode.RESYNC, "internal_error"))
            raise
        finally:
            if not adopted:  # the client has disconnected, or the handshake failed
                self.left(wire)
            elif self._hub.draining:  # the others were notified while this one could not be
                wire.drain(self._hub.return_ms())

    async def _join(self, socket: WebSocket, wire: WireSocket, refusal: TryOnError | None) -> Callable[[], None]:
        """Return a plain function that shows the client what was read."""
        if refusal is not None:
            raise refusal
        since = cursor_of(query(socket.scope).get("since"))
        read = await self._joining.join(wire, credential_of(socket), since=since, transport="ws")
        wire.until = read.access.until
        return functools.partial(self._joining.show, wire, read)

    def heard(self, wire: WireSocket, text: str) -> None:
        """Take a message from a detached client."""
        if self._conversation.receive(wire, text):
            task = asyncio.create_task(self._conversation.resync(wire), name="ws-sync")
            self._resyncs.add(task)
            task.add_done_callback(self._resyncs.discard)

    def left(self, wire: WireSocket) -> None:
        """Forget a detached client that has disconnected or is about to."""
        self._joining.leave(wire, transport="ws")
        self._limits.give_back(wire.address)


async def accept(socket: WebSocket) -> None:
    """Accept a handshake; the token is never echoed."""
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered_subprotocols(socket) else None)
