"""A connection to one session over one transport: yields frames until it ends.

A connection yields what arrives, unread and in order, and ends by raising
:class:`Lost`. It repeats nothing, drops nothing and never comes back: its follower
holds the cursor, reads the frames and opens the next connection. A WebSocket and an
event stream yield frames; polls yield sessions with their ``missed`` events, for as
many requests as it takes.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from tryon.client.event_stream import EventStream
from tryon.client.network import Network, NoAnswer, Socket, SocketClosed, SocketRefused, whole_answer
from tryon.protocol.backoff import OPEN_SECONDS, POLL_SECONDS, WAIT_SECONDS
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.frames import BEARER_SUBPROTOCOL, SUBPROTOCOL
from tryon.protocol.paths import SESSIONS

PROGRESS_SECONDS: Final = 0.2
"""Pause between long polls that are answered on progress: at most 5 answers a second.
"""

AT_ONCE_SECONDS: Final = 1.0
"""A long poll without news that took less was not held: a server that drains does not
wait.
"""


@dataclass(frozen=True, slots=True)
class Access:
    """The credential that opens a session: its owner's token, or a ticket for it."""

    token: str | None = None
    ticket: str | None = None

    def __repr__(self) -> str:
        return f"<Access by {'token' if self.token else 'ticket' if self.ticket else 'nothing'}>"

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers of an HTTP request."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def query(self) -> str:
        """Return the credential for the query string, beginning with ``&``."""
        return f"&ticket={self.ticket}" if self.ticket else ""

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """Return the subprotocols to offer in a WebSocket handshake."""
        return (SUBPROTOCOL, f"{BEARER_SUBPROTOCOL}{self.token}") if self.token else (SUBPROTOCOL,)


class Lost(Exception):
    """The end of a connection.

    ``code``: the close code, or the HTTP status of a refusal (below 1000), or 1006.
    ``reason``: the code of a refusal, or a few words. ``retry_after``: seconds, if the
    server named them. ``reached``: the server may be there, so another transport may
    work.
    """

    def __init__(self, code: int, reason: str = "", *, retry_after: float | None = None, reached: bool = True) -> None:
        self.code = int(code)
        self.reason = reason
        self.retry_after = retry_after
        self.reached = reached
        super().__init__(f"{self.code} {reason}".rstrip())

    @property
    def refused(self) -> bool:
        """Return whether the code is an HTTP status."""
        return self.code < 1000


@dataclass(frozen=True, slots=True)
class Received:
    """One thing that arrived.

    ``data``: JSON as sent, None if a poll brought no news. ``polled``: it is a session
    with ``missed`` and, in ``waited``, whether the server held the request back; else
    it is a frame.
    """

    data: str | bytes | None
    polled: bool = False
    waited: bool = False


class Connection(ABC):
    """One connection; :meth:`received` runs once.

    ``quiet_seconds``: silence after which a pushed connection counts as lost. It starts
    at the time for the first frame; a follower that has read ``ping_seconds`` sets it.
    """

    transport: ClassVar[str]
    _etag: str | None = None
    _answered = False

    def __init__(
        self,
        network: Network,
        session_id: str,
        access: Access,
        cursor: Callable[[], int],
        *,
        on_request: Callable[[], None] = lambda: None,
        progress: bool = True,
        poll_seconds: float | None = None,
    ) -> None:
        """Prepare a connection; nothing is sent before :meth:`received`.

        ``cursor``: returns the last seq seen. ``on_request``: called before each
        request. ``progress``: progress ends a long poll too. ``poll_seconds``: between
        polls, instead of the server's hint.
        """
        self.quiet_seconds = OPEN_SECONDS
        self._network = network
        self._session_id = session_id
        self._access = access
        self._cursor = cursor
        self._on_request = on_request
        self._progress = progress
        self._poll_seconds = poll_seconds

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._session_id} since={self._cursor()}>"

    @property
    def token(self) -> str | None:
        """Return the token that this connection shows."""
        return self._access.token

    def show(self, token: str) -> None:
        """Show this token; call it before :meth:`received`."""
        self._access = Access(token=token)

    @abstractmethod
    def received(self) -> AsyncGenerator[Received, None]:
        """Yield frames or answers until the connection is lost. Raises Lost."""

    async def _ask(self, wait: int | None) -> tuple[Received, float | None]:
        """Return one answer, and the server's hint when the next is worth it."""
        self._on_request()
        headers = dict(self._access.headers)
        if self._etag is not None and (wait is None or self._progress):
            headers["If-None-Match"] = self._etag
        path = self._path(more="" if wait is None else f"&wait={wait}")
        try:
            answer = await self._network.request("GET", path, headers=headers, seconds=OPEN_SECONDS + (wait or 0))
        except NoAnswer as error:
            raise Lost(CloseCode.ABNORMAL, str(error), reached=self._answered) from None
        if answer.status not in (200, 304):
            raise Lost(answer.status, answer.code, retry_after=answer.retry_after)
        self._answered = True
        if answer.status == 304:
            return Received(None, polled=True, waited=wait is not None), answer.retry_after
        self._etag = answer.headers.get("etag")
        return Received(answer.body, polled=True, waited=wait is not None), answer.retry_after

    def _path(self, view: str = "", more: str = "") -> str:
        return f"{SESSIONS}/{self._session_id}{view}?since={self._cursor()}{more}{self._access.query}"


class WebSocketConnection(Connection):
    """A WebSocket."""

    transport = "ws"
    _socket: Socket | None = None

    async def received(self) -> AsyncGenerator[Received, None]:
        """Yield each frame.

        Raises Lost with the close code or the handshake's status.
        """
        self._on_request()
        try:
            async with self._network.socket(
                self._path("/ws"), subprotocols=self._access.subprotocols, seconds=OPEN_SECONDS
            ) as self._socket:
                while True:
                    async with asyncio.timeout(self.quiet_seconds):
                        data = await self._socket.receive()
                    yield Received(data)
        except SocketRefused as refusal:
            raise Lost(refusal.status, retry_after=refusal.retry_after) from None
        except SocketClosed as closed:
            raise Lost(closed.code) from None
        except NoAnswer as error:
            raise Lost(CloseCode.ABNORMAL, str(error)) from None
        except TimeoutError:
            raise Lost(CloseCode.ABNORMAL, "silent") from None
        finally:
            self._socket = None

    async def send(self, message: str) -> None:
        """Send a text message; without an open socket it is dropped."""
        if self._socket is not None:
            await self._socket.send(message)


class SseConnection(Connection):
    """A stream of Server-Sent Events.

    The server answers with 204 when the end was seen already, and so may any proxy: one
    plain poll shows which.
    """

    transport = "sse"

    async def received(self) -> AsyncGenerator[Received, None]:
        """Yield each frame. Raises Lost; ValueError for a stream that is not one."""
        self._on_request()
        events, reached, live = EventStream(), False, False
        headers = {
            **self._access.headers,
            "Accept": "text/event-stream",
            "Last-Event-ID": str(self._cursor()),
        }
        try:
            async with self._network.stream(
                "GET", self._path("/events"), headers=headers, seconds=OPEN_SECONDS
            ) as stream:
                reached = True
                if stream.status not in (200, 204):
                    answer = await whole_answer(stream, OPEN_SECONDS)
                    raise Lost(answer.status, answer.code, retry_after=answer.retry_after)
                while stream.status == 200:
                    async with asyncio.timeout(self.quiet_seconds):
                        piece = await stream.piece()
                    if piece is None:  # a stream that opens and says nothing: the server has no room
                        code = CloseCode.ABNORMAL if live else 503
                        raise Lost(code, "stream ended", retry_after=None if live else events.retry_seconds)
                    for data in events.feed(piece):
                        live = True
                        yield Received(data)
        except NoAnswer as error:
            raise Lost(CloseCode.ABNORMAL, str(error), reached=reached) from None
        except TimeoutError:
            raise Lost(CloseCode.ABNORMAL, "silent", reached=reached) from None
        item, _ = await self._ask(None)
        yield item
        raise Lost(204, "nothing to stream")


class PollConnection(Connection):
    """Plain polls, one request each."""

    transport = "poll"

    async def received(self) -> AsyncGenerator[Received, None]:
        """Yield the answer of each poll. Raises Lost with the status of a refusal."""
        while True:
            item, pause = await self._ask(None)
            yield item
            await asyncio.sleep(self._poll_seconds or pause or POLL_SECONDS)


class LongPollConnection(PollConnection):
    """Long polls: the first is answered at once, the others when there is news."""

    transport = "long-poll"

    async def received(self) -> AsyncGenerator[Received, None]:
        """Yield the answer of each poll. Raises Lost with the status of a refusal."""
        item, _ = await self._ask(None)
        yield item
        loop = asyncio.get_running_loop()
        while True:
            began, before = loop.time(), self._cursor()
            item, pause = await self._ask(WAIT_SECONDS)
            yield item
            if self._cursor() != before:
                continue
            if item.data is not None and self._progress:
                await asyncio.sleep(PROGRESS_SECONDS)
            elif loop.time() - began < AT_ONCE_SECONDS:
                await asyncio.sleep(pause or POLL_SECONDS)


CONNECTIONS: Final[Mapping[str, type[Connection]]] = {
    each.transport: each for each in (WebSocketConnection, SseConnection, LongPollConnection, PollConnection)
}
"""The class of each transport, best first."""
