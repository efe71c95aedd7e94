"""``GET /api/tryon/sessions/{id}/events``: the same frames as Server-Sent Events.

The format is in WHATWG HTML, section 9.2. ``data:`` is the frame, ``id:`` the seq on
snapshot and event frames, so the browser's own reconnect resumes where it was. A stream
that has ended is not opened again: 204. Any other status ends an EventSource for good,
so overload is a 200 with one ``retry:`` line.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from server.services import Services
from server.system.randomness import Randomness
from server.web.common.credentials import client_address, counted, credential_of
from server.web.common.fields import query
from server.web.push.hub import Hub
from server.web.transports.connection_limits import ConnectionLimits
from server.web.transports.joining import Joining, cursor_of
from server.web.transports.outbox import SEND_SECONDS, Outbox
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.errors import RateLimited, Unavailable
from tryon.protocol.frames import encode

HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
}
"""Headers of every stream. A proxy that compresses gathers a block of many frames.

``no-transform`` (RFC 9111, section 5.2.2.6) forbids it; nginx obeys
``X-Accel-Buffering``.
"""

LAST_SECONDS: Final = 0.5
"""Maximum time that a stopping server waits for a client to read."""

RETRY_MS: Final = 1000
"""Time after which a browser reconnects when the stream was cut."""


class Stream(Outbox):
    """An outbox whose frames are ready to be written: one event each."""

    __slots__ = ()

    def drain(self, retry_after_ms: int) -> None:
        """Say goodbye, and cut a client that does not read it within LAST_SECONDS.

        It must not keep the server from stopping.
        """
        super().drain(retry_after_ms)
        if self.sending is not None:
            self.sending.reschedule(asyncio.get_running_loop().time() + LAST_SECONDS)

    def snapshot(self, frame: bytes, seq: int) -> None:
        """Append a snapshot and the time after which a browser reconnects."""
        self.put(b"retry: %d\nid: %d\ndata: %s\n\n" % (RETRY_MS, seq, frame))

    def event(self, frame: bytes) -> None:
        """Append one transition with its seq as id."""
        self.put(b"id: %d\ndata: %s\n\n" % (self.seq or 0, frame))

    def progress(self, frame: bytes) -> None:
        """Append progress, or replace the unsent one."""
        self.put_latest(b"data: %s\n\n" % frame)

    def ping(self, frame: bytes) -> None:
        """Append a ping, with a comment for proxies, unless other frames wait."""
        if self.idle:
            self.put_latest(b": ping\ndata: %s\n\n" % frame)


class Streams:
    """The event streams of one process; they share the sockets' limits."""

    def __init__(self, services: Services, hub: Hub, limits: ConnectionLimits, joining: Joining) -> None:
        self._config = services.config
        self._randomness = services.randomness
        self._reads = services.sessions.reads
        self._hub = hub
        self._limits = limits
        self._joining = joining

    def __repr__(self) -> str:
        return f"<Streams {self._limits!r}>"

    async def endpoint(self, request: Request) -> Response:
        """Answer with a stream, or with 204 if the client has seen the end."""
        session_id = request.path_params["session_id"]
        address = counted(client_address(request, self._config))
        since = cursor_of(request.headers.get("last-event-id"))
        if since is None:
            since = cursor_of(query(request.scope).get("since"))
        if request.method == "HEAD":  # Starlette routes it here with GET: the headers, and nothing to hold open
            await self._reads.read(session_id, credential_of(request))
            return Response(headers=HEADERS)
        if self._hub.draining or self._limits.refusal(address) is not None:
            return come_back_later(self._randomness)
        stream = Stream(session_id)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._limits.taken(address))
            try:
                read = await stack.enter_async_context(
                    self._joining.joined(stream, credential_of(request), since=since, transport="sse")
                )
            except (RateLimited, Unavailable) as error:
                return come_back_later(self._randomness, error.retry_after)
            if read.session.status.terminal and since is not None and since >= read.session.seq:
                return Response(status_code=204)
            self._joining.show(stream, read)
            return FollowingResponse(stream, stack.pop_all())
        raise AssertionError("unreachable")


def come_back_later(randomness: Randomness, seconds: float | None = None) -> Response:
    """Return a stream of one ``retry`` line; after a random time if none is given."""
    return Response(_retry(int(1000 * (seconds or randomness.uniform(1, 5)))), headers=HEADERS)


async def _frames(stream: Stream) -> AsyncIterator[bytes]:
    while (frame := await stream.next()) is not None:
        yield frame
    if (bye := stream.bye) is not None:
        again = b"" if bye.retry_after_ms is None else _retry(bye.retry_after_ms)
        yield again + b"data: %s\n\n" % encode(bye)


class FollowingResponse(StreamingResponse):
    """A stream that stays registered for as long as the answer lasts.

    A client that does not read is cut.
    """

    def __init__(self, stream: Stream, registration: contextlib.AsyncExitStack) -> None:
        super().__init__(_frames(stream), headers=HEADERS)
        self._stream = stream
        self._registration = registration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def bounded(message: Message) -> None:
            stream = self._stream
            stopping = stream.bye is not None and stream.bye.code == CloseCode.DRAINING
            try:
                async with asyncio.timeout(LAST_SECONDS if stopping else SEND_SECONDS) as stream.sending:
                    await send(message)
            finally:
                stream.sending = None

        async with self._registration:
            with contextlib.suppress(TimeoutError):
                await super().__call__(scope, receive, bounded)


def _retry(milliseconds: int) -> bytes:
    return b"retry: %d\n\n" % milliseconds
