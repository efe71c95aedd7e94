"""Follow all sessions of an owner over one connection, by the best transport there is.

One :class:`~tryon.client.state.FollowedSession` per session takes what is new, so the
rule of following one session holds for each. The client's cursor is a seq per session;
a lost connection is opened again with it. Without WebSockets and event streams the list
of sessions is polled, and the sessions that have changed are read.
"""

from __future__ import annotations

import asyncio
import base64
import random
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec

from tryon.client.connection import Access, Lost, Received, SseConnection, WebSocketConnection
from tryon.client.ladder import Ladder, is_final
from tryon.client.network import Network, NoAnswer
from tryon.client.problems import Problem
from tryon.client.state import FollowedSession, Update
from tryon.client.tokens import Tokens
from tryon.protocol.backoff import OPEN_SECONDS, POLL_SECONDS, WATCHDOG_PERIODS
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.codes import ErrorCode
from tryon.protocol.frames import (
    ByeFrame,
    EndedFrame,
    ErrorFrame,
    EventFrame,
    ProgressFrame,
    SnapshotFrame,
    SyncedFrame,
)
from tryon.protocol.paths import API, SESSIONS
from tryon.protocol.views import SessionView

WATCH_TRANSPORTS: Final = ("ws", "sse", "poll")
"""Transports that follow all sessions, best first."""

CLIMB_SECONDS: Final = 60.0
"""Time after which polling is given up for a new try of the better transports."""

PAGE: Final = 100
"""Sessions that a poll looks at: the newest."""

_FRAMES: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "snapshot": msgspec.json.Decoder(SnapshotFrame),
    "event": msgspec.json.Decoder(EventFrame),
    "progress": msgspec.json.Decoder(ProgressFrame),
    "ended": msgspec.json.Decoder(EndedFrame),
    "synced": msgspec.json.Decoder(SyncedFrame),
    "error": msgspec.json.Decoder(ErrorFrame),
    "bye": msgspec.json.Decoder(ByeFrame),
}


class _Typed(msgspec.Struct, frozen=True):
    type: str


class _Page(msgspec.Struct, frozen=True):
    sessions: list[SessionView]


class _Polled(SessionView, frozen=True):
    missed: list[EventFrame] = []


_typed: Final = msgspec.json.Decoder(_Typed)
_page: Final = msgspec.json.Decoder(_Page)
_polled: Final = msgspec.json.Decoder(_Polled)
_VIEW_FIELDS: Final = SessionView.__struct_fields__


class Erased(msgspec.Struct, frozen=True):
    """An erased session, and the ``reason``: ``deleted`` or ``expired``.

    Over polls it is ``erased``: a 404 says no more.
    """

    session_id: str
    reason: str


class _OwnerSocket(WebSocketConnection):
    """The WebSocket of all sessions."""

    def _path(self, view: str = "", more: str = "") -> str:
        return f"{API}{view}?since={self._cursor()}"


class _OwnerStream(SseConnection):
    """The event stream of all sessions."""

    def _path(self, view: str = "", more: str = "") -> str:
        return f"{API}{view}?since={self._cursor()}"


class Watching:
    """All sessions of an owner, followed; :meth:`updates` runs once."""

    def __init__(
        self,
        network: Network,
        access: Access,
        *,
        transports: Sequence[str] = WATCH_TRANSPORTS,
        tokens: Tokens | None = None,
        chance: random.Random,
    ) -> None:
        """``tokens``: what each connection shows, in place of ``access``.

        Raises ValueError without a known transport.
        """
        self._network = network
        self._access = access
        self._tokens = tokens
        self._ladder = Ladder(transports, chance)
        self._sessions: dict[str, FollowedSession] = {}
        self._newest = ("", 0)
        """The newest session that has ended, and its last seq."""
        self._listed = False
        """Whether a list was read to its end: what is newer has come since."""
        self._refusal: str | None = None
        self._worked = False
        self._live_at: float | None = None
        self._connection: _OwnerSocket | _OwnerStream | None = None

    def __repr__(self) -> str:
        return f"<Watching sessions={len(self._sessions)}>"

    @property
    def cursor(self) -> str:
        """Return the last seq of each living session, as the server takes it.

        The newest session stays in it after its end: the server shows those that began
        and ended since.
        """
        pairs = [(name, state.cursor) for name, state in self._sessions.items()]
        if self._newest > max(pairs, default=("", 0)):
            pairs.append(self._newest)
        return "~".join(f"{_short(name)}.{seq}" for name, seq in pairs) or "0"

    async def updates(self) -> AsyncGenerator[Update | Erased, None]:
        """Yield each change of each session, for as long as the caller asks.

        Raises Problem when the server refuses this client.
        """
        transport, pause, renewed = self._ladder.best, 0.0, False
        while True:
            await asyncio.sleep(pause)
            self._worked, self._live_at, self._refusal = False, None, None
            if self._tokens is not None:
                self._access = Access(token=await self._tokens.current())
            try:
                async with aclosing(self._received(transport)) as updates:
                    async for update in updates:
                        yield update
            except Lost as lost:
                renewed = renewed and not self._worked
                if lost.code in (401, CloseCode.UNAUTHORIZED) and not renewed and await self._renew():
                    pause, renewed = 0.0, True
                    continue
                if is_final(transport, lost):
                    code = self._refusal or lost.reason or f"closed_{lost.code}"
                    raise Problem(code, status=lost.code if lost.refused else 0, retryable=False) from None
                now = asyncio.get_running_loop().time()
                live_seconds = 0.0 if self._live_at is None else now - self._live_at
                step = self._ladder.after(transport, lost, worked=self._worked, live_seconds=live_seconds)
                transport, pause = step.transport, step.pause

    async def _renew(self) -> bool:
        """Return whether there is another token than the one that was refused."""
        return self._tokens is not None and await self._tokens.renew(self._access.token or "")

    def _live(self, transport: str) -> None:
        if not self._worked:
            self._worked = True
            self._live_at = asyncio.get_running_loop().time()
            self._ladder.worked(transport)

    async def _received(self, transport: str) -> AsyncGenerator[Update | Erased, None]:
        """Yield what one connection brings. Raises Lost."""
        if transport == "poll":
            async for update in self._polls():
                yield update
            raise Lost(CloseCode.RESYNC, "better transports are tried again")
        kind = _OwnerSocket if transport == "ws" else _OwnerStream
        self._connection = kind(self._network, "", self._access, lambda: self.cursor)  # type: ignore[arg-type, return-value]  # a text here
        try:
            async with aclosing(self._connection.received()) as items:
                async for item in items:
                    for update in self._take(item, transport):
                        yield update
                    if any(state.behind for state in self._sessions.values()):
                        for state in self._sessions.values():
                            state.behind = False
                        raise Lost(CloseCode.RESYNC, "a transition is missing")
        except (msgspec.MsgspecError, ValueError) as error:
            raise Lost(CloseCode.ABNORMAL, f"unreadable: {error}") from None

    # -- frames ------------------------------------------------------------------------

    def _take(self, item: Received, transport: str) -> list[Update | Erased]:
        """Return the updates that a frame brings. Raises Lost."""
        data = item.data or b""
        kind = _typed.decode(data).type
        frame = _FRAMES[kind].decode(data) if kind in _FRAMES else None
        match frame:
            case SnapshotFrame():
                self._live(transport)
                state = self._sessions.setdefault(frame.session.session_id, FollowedSession())
                return _over(transport, state.snapshot(frame.session, frame.missed))
            case EventFrame():
                return _over(transport, self._sessions.setdefault(frame.session_id, FollowedSession()).event(frame))
            case ProgressFrame():
                known = self._sessions.get(frame.session_id)
                return [] if known is None else _over(transport, known.progress(frame))
            case EndedFrame():
                known = self._pop(frame.session_id)
                if known is not None and frame.reason in ("deleted", "expired"):
                    return [Erased(frame.session_id, frame.reason)]
            case SyncedFrame():
                self._live(transport)
                if self._connection is not None:
                    self._connection.quiet_seconds = frame.ping_seconds * WATCHDOG_PERIODS
            case ErrorFrame():
                self._refusal = frame.code
            case ByeFrame():
                wait = frame.retry_after_ms
                raise Lost(frame.code, frame.reason, retry_after=None if wait is None else wait / 1000)
            case _:  # a ping, or a frame that this client does not know
                pass
        return []

    def _pop(self, session_id: str) -> FollowedSession | None:
        """Forget a session that has ended, and return what was known of it."""
        known = self._sessions.pop(session_id, None)
        if known is not None:
            self._newest = max(self._newest, (session_id, known.cursor))
        return known

    # -- polls -------------------------------------------------------------------------

    async def _polls(self) -> AsyncGenerator[Update | Erased, None]:
        """Yield what polls bring, for :data:`CLIMB_SECONDS`. Raises Lost."""
        end = asyncio.get_running_loop().time() + CLIMB_SECONDS
        while asyncio.get_running_loop().time() < end:
            listed = _page.decode(await self._get(f"{SESSIONS}?limit={PAGE}") or b"")
            self._live("poll")
            seen = max(self._newest[0], *self._sessions, "")
            due = set(self._sessions)
            for view in listed.sessions:
                # One that has ended is shown if it began after all that is known.
                if not view.terminal or (view.session_id > seen and (seen or self._listed)):
                    due.add(view.session_id)
            for session_id in sorted(due):
                known = self._sessions.get(session_id)
                since = 0 if known is None else known.cursor
                answer = await self._get(f"{SESSIONS}/{session_id}?since={since}")
                if answer is None:
                    if self._pop(session_id) is not None:
                        yield Erased(session_id, ErrorCode.ERASED.value)
                    continue
                session = _polled.decode(answer)
                view = SessionView(**{name: getattr(session, name) for name in _VIEW_FIELDS})
                state = self._sessions.setdefault(session_id, FollowedSession())
                for update in _over("poll", state.snapshot(view, session.missed)):
                    yield update
                if view.terminal:
                    self._pop(session_id)
            self._listed = True
            ended = [(view.session_id, view.seq) for view in listed.sessions if view.terminal]
            self._newest = max([self._newest, *ended])
            await asyncio.sleep(POLL_SECONDS)

    async def _get(self, path: str) -> bytes | None:
        """Return the body of an answer; None for a 404. Raises Lost."""
        try:
            answer = await self._network.request("GET", path, headers=dict(self._access.headers), seconds=OPEN_SECONDS)
        except NoAnswer as error:
            raise Lost(CloseCode.ABNORMAL, str(error), reached=self._worked) from None
        if answer.status == 404 and path.startswith(f"{SESSIONS}/"):
            return None
        if answer.status != 200:
            raise Lost(answer.status, answer.code, retry_after=answer.retry_after)
        return answer.body


def _short(session_id: str) -> str:
    """Return an id as 22 characters: two hundred have to fit into an address."""
    return base64.urlsafe_b64encode(uuid.UUID(session_id).bytes)[:22].decode()


def _over(transport: str, updates: Sequence[Update]) -> list[Update | Erased]:
    return [Update(update.session, update.event, transport) for update in updates]
