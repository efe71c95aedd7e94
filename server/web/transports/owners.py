"""``GET /api/tryon/ws`` and ``/events``: all sessions of an owner on one connection.

A token is needed; a ticket is for one session. The rule of following is in
:mod:`server.web.push.watch`; here are the two transports around it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import cast

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from server.adapters.database.clock import DatabaseClock
from server.config.settings import Config
from server.domain.owner_cursor import Seqs, read_cursor
from server.services import Services
from server.sessions.reads import SessionReads
from server.web.common.credentials import client_address, counted, owner_of
from server.web.common.fields import query
from server.web.push.hub import Hub
from server.web.push.member import Line
from server.web.push.watch import Watch
from server.web.transports import asgi_socket
from server.web.transports.connection_limits import ConnectionLimits
from server.web.transports.conversation import Conversation, refuse
from server.web.transports.inbound import OwnerInboundState
from server.web.transports.joining import Joining, whole
from server.web.transports.listener import Listener
from server.web.transports.owner_lines import OwnerOutbox, OwnerStream, OwnerWire
from server.web.transports.sse import HEADERS, FollowingResponse, come_back_later
from server.web.transports.websocket import Sockets
from server.web.transports.wire import WireSocket
from tryon.protocol.errors import RateLimited, TryOnError, Unavailable


class Watching:
    """Joining for all sessions of an owner, over the hub and the connection limits."""

    __slots__ = ("_database_clock", "_hub", "_limits", "_ping_seconds", "_reads")

    def __init__(
        self, *, config: Config, hub: Hub, reads: SessionReads, limits: ConnectionLimits, database_clock: DatabaseClock
    ) -> None:
        self._hub = hub
        self._reads = reads
        self._limits = limits
        self._database_clock = database_clock
        self._ping_seconds = whole(config.ping_seconds)

    def __repr__(self) -> str:
        return f"<Watching {self._hub.owners!r}>"

    def watch(self, line: Line, owner: str) -> Watch:
        """Return a client's watch. Raises RateLimited if its owner has too many."""
        self._limits.check_owner(self._hub.owners.count(owner))
        return Watch(
            owner,
            line,
            hub=self._hub,
            reads=self._reads,
            database_clock=self._database_clock,
            ping_seconds=self._ping_seconds,
        )

    async def join(self, watch: Watch, seqs: Seqs | None, *, transport: str) -> None:
        """Register, subscribe, read; the caller calls :meth:`leave`, also on an error.

        Raises Unavailable.
        """
        await self._hub.confirmation(self._hub.owners.add(watch, transport=transport))
        await watch.join(seqs)

    def leave(self, watch: Watch, *, transport: str) -> None:
        """Forget a watch; do nothing if that was done before."""
        watch.close()
        self._hub.owners.remove(watch, transport=transport)

    @contextlib.asynccontextmanager
    async def joined(self, watch: Watch, seqs: Seqs | None, *, transport: str) -> AsyncIterator[None]:
        """Join, and run the watch for as long as this is open."""
        try:
            await self.join(watch, seqs, transport=transport)
            running = asyncio.create_task(watch.run(), name="watch")
            try:
                yield
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
        finally:
            self.leave(watch, transport=transport)


class OwnerSockets(Sockets):
    """The WebSockets of one process that follow all sessions of an owner."""

    def __init__(
        self, services: Services, hub: Hub, limits: ConnectionLimits, joining: Joining, watching: Watching
    ) -> None:
        super().__init__(services, hub, limits, joining)
        self._watching = watching

    def _wire(self, socket: WebSocket, address: str) -> WireSocket:
        return OwnerWire(self, address, self._clock)

    async def _attached(self, socket: WebSocket, refusal: TryOnError | None) -> None:
        outbox = OwnerOutbox()
        watches: list[Watch] = []

        async def heard(text: str) -> None:
            _hear(self._conversation, outbox, watches[0] if watches else None, text)

        async with contextlib.AsyncExitStack() as stack:
            try:
                if refusal is not None:
                    raise refusal
                watch = self._watching.watch(outbox, owner_of(socket))
                await stack.enter_async_context(self._watching.joined(watch, _since(socket), transport="ws_owner"))
                watches.append(watch)
            except TryOnError as error:
                refuse(outbox, error)
            await asgi_socket.serve(socket, outbox, heard)

    async def _join(self, socket: WebSocket, wire: WireSocket, refusal: TryOnError | None) -> Callable[[], None]:
        if refusal is not None:
            raise refusal
        line = cast(OwnerWire, wire)
        line.watch = self._watching.watch(line, owner_of(socket))
        await self._watching.join(line.watch, _since(socket), transport="ws_owner")
        return functools.partial(self._run, line, line.watch)

    def _run(self, line: OwnerWire, watch: Watch) -> None:
        line.task = asyncio.create_task(watch.run(), name="watch")
        self._resyncs.add(line.task)
        line.task.add_done_callback(self._resyncs.discard)

    def heard(self, wire: WireSocket, text: str) -> None:
        """Take a message from a detached client."""
        line = cast(OwnerWire, wire)
        _hear(self._conversation, line, line.watch, text)

    def left(self, wire: WireSocket) -> None:
        """Forget a detached client that has disconnected or is about to."""
        line = cast(OwnerWire, wire)
        if line.watch is not None:
            self._watching.leave(line.watch, transport="ws_owner")
        if line.task is not None:
            line.task.cancel()
        self._limits.give_back(wire.address)


class OwnerStreams:
    """The event streams of one process that follow all sessions of an owner."""

    def __init__(self, services: Services, hub: Hub, limits: ConnectionLimits, watching: Watching) -> None:
        self._config = services.config
        self._randomness = services.randomness
        self._hub = hub
        self._limits = limits
        self._watching = watching

    def __repr__(self) -> str:
        return f"<OwnerStreams {self._limits!r}>"

    async def endpoint(self, request: Request) -> Response:
        """Answer with a stream. Raises Unauthorized without a token."""
        owner = owner_of(request)
        address = counted(client_address(request, self._config))
        if request.method == "HEAD":
            return Response(headers=HEADERS)
        if self._hub.draining or self._limits.refusal(address) is not None:
            return come_back_later(self._randomness)
        stream = OwnerStream()
        stream.open()
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._limits.taken(address))
            try:
                watch = self._watching.watch(stream, owner)
                await stack.enter_async_context(self._watching.joined(watch, _since(request), transport="sse_owner"))
            except (RateLimited, Unavailable) as error:
                return come_back_later(self._randomness, error.retry_after)
            return FollowingResponse(stream, stack.pop_all())
        raise AssertionError("unreachable")


def _since(connection: HTTPConnection) -> Seqs | None:
    """Return the cursor of a client; None if it has none."""
    text = connection.headers.get("last-event-id")
    if text is None:
        text = query(connection.scope).get("since")
    return None if text is None else read_cursor(text)


def _hear(conversation: Conversation, listener: Listener, watch: Watch | None, text: str) -> None:
    """Count a message; let a ``sync`` be answered by the watch."""
    if conversation.receive(listener, text) and watch is not None:
        state = listener.inbound
        assert isinstance(state, OwnerInboundState)
        watch.sync(state.sync_seqs)
        state.syncing = False
