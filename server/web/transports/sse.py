"""``GET /api/tryon/sessions/{id}/events``: the same frames as Server-Sent Events
(WHATWG HTML, section 9.2).

``data:`` is the frame, ``id:`` the seq on snapshot and event frames, so the browser's
own reconnect resumes where it was. A stream that has ended is not opened again: 204.
Any other status ends an EventSource for good, so overload is a 200 with one ``retry:``
line.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from server.services import Services
from server.telemetry import metrics
from server.web.common.credentials import client_address, counted, credential_of
from server.web.push.hub import Hub
from server.web.transports.outbox import SEND_SECONDS, Outbox, Places, cursor_of, ping_seconds
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.errors import RateLimited, Unavailable
from tryon.protocol.frames import SnapshotFrame, encode

HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}

LAST_SECONDS: Final = 0.5
"""So long a stopping server waits for a client to read."""

RETRY_MS: Final = 1000
"""How long a browser waits before it comes back after a cut."""


class _Stream(Outbox):
    """An outbox whose frames are ready to be written: one event each."""

    __slots__ = ("sending",)

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.sending: asyncio.Timeout | None = None
        """Bounds the write that waits for the client to read."""

    def drain(self, retry_after_ms: int) -> None:
        """A client that does not read is told nothing: it must not keep the server from
        its end.
        """
        super().drain(retry_after_ms)
        if self.sending is not None:
            self.sending.reschedule(asyncio.get_running_loop().time() + LAST_SECONDS)

    def event(self, frame: bytes) -> None:
        self.put(b"id: %d\ndata: %s\n\n" % (self.seq or 0, frame))

    def progress(self, frame: bytes) -> None:
        self.put_latest(b"data: %s\n\n" % frame)

    def ping(self, frame: bytes) -> None:
        if self.idle:
            self.put_latest(b": ping\ndata: %s\n\n" % frame)


class Streams:
    """All event streams of one process; they share the sockets' limits."""

    def __init__(self, services: Services, hub: Hub, places: Places) -> None:
        self._services = services
        self._hub = hub
        self._places = places

    async def endpoint(self, request: Request) -> Response:
        session_id = request.path_params["session_id"]
        address = counted(client_address(request, self._services.config))
        since = cursor_of(request.headers.get("last-event-id"))
        if since is None:
            since = cursor_of(request.query_params.get("since"))
        if request.method == "HEAD":  # Starlette lets it in with GET: the headers, but nothing to hold open
            await self._services.sessions.reads.read(session_id, credential_of(request))
            return Response(headers=HEADERS)
        refused = self._places.refusal(address)
        if self._hub.draining or refused is not None:
            return _come_back_later()
        outbox = _Stream(session_id)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._places.taken(address))
            await stack.enter_async_context(self._hub.following(outbox, transport="sse"))
            try:
                look = await self._services.sessions.reads.read(session_id, credential_of(request), since=since)
                self._places.check_session(self._hub.followers_of(session_id))
            except (RateLimited, Unavailable) as error:
                return _come_back_later(error.retry_after)
            terminal = look.session.status.terminal
            if terminal and since is not None and since >= look.session.seq:
                return Response(status_code=204)
            snapshot = encode(SnapshotFrame(look.view, look.missed, ping_seconds(self._services.config)))
            metrics.frames.labels("snapshot").inc()
            outbox.put(b"retry: %d\nid: %d\ndata: %s\n\n" % (RETRY_MS, look.session.seq, snapshot))
            if terminal:
                self._hub.deliveries.note_shown(look.session)
                outbox.end(look.session.status.value)
            else:
                self._hub.release(outbox, look.session)
            return _FollowingResponse(outbox, stack.pop_all())
        raise AssertionError("unreachable")


async def _frames(outbox: _Stream) -> AsyncIterator[bytes]:
    while (frame := await outbox.next()) is not None:
        yield frame
    if (bye := outbox.bye) is not None:
        again = b"" if bye.retry_after_ms is None else _retry(bye.retry_after_ms)
        yield again + b"data: %s\n\n" % encode(bye)


class _FollowingResponse(StreamingResponse):
    """Holds the follower's registration for as long as the answer lasts, and gives up a
    client that does not read.
    """

    def __init__(self, outbox: _Stream, registration: contextlib.AsyncExitStack) -> None:
        super().__init__(_frames(outbox), headers=HEADERS)
        self._outbox = outbox
        self._registration = registration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def bounded(message: Message) -> None:
            outbox = self._outbox
            stopping = outbox.bye is not None and outbox.bye.code == CloseCode.DRAINING
            try:
                async with asyncio.timeout(LAST_SECONDS if stopping else SEND_SECONDS) as outbox.sending:
                    await send(message)
            finally:
                outbox.sending = None

        async with self._registration:
            with contextlib.suppress(TimeoutError):
                await super().__call__(scope, receive, bounded)


def _retry(milliseconds: int) -> bytes:
    return b"retry: %d\n\n" % milliseconds


def _come_back_later(seconds: float | None = None) -> Response:
    return Response(_retry(int(1000 * (seconds or random.uniform(1, 5)))), headers=HEADERS)
