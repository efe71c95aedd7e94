"""Follow one session to its end, over every transport that the network allows.

Theory of operation. One connection counts, the *link*. While it is not the best
transport, a better one is tried beside it from time to time, the *probe*; if the probe
is answered it becomes the link. Each connection is read by a task of its own that hands
one item at a time to :meth:`Following.updates` and waits until it was taken: the cursor
has moved before a poll asks again, and a slow caller slows the server down instead of
filling a queue. All decisions are taken in :meth:`Following.updates`, one item after
the other, so nothing here needs a lock: :class:`~tryon.client.state.FollowedSession`
takes what is new, :class:`~tryon.client.ladder.Ladder` chooses the next connection.
Items of a connection that was dropped are ignored.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec

from tryon.client.connection import CONNECTIONS, Access, Connection, Lost, Received
from tryon.client.ladder import Ladder, is_final
from tryon.client.network import Network
from tryon.client.problems import Problem
from tryon.client.state import FollowedSession, Update
from tryon.client.tokens import Tokens
from tryon.protocol.backoff import TRANSPORTS, WATCHDOG_PERIODS
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.frames import ByeFrame, ErrorFrame, EventFrame, ProgressFrame, SnapshotFrame
from tryon.protocol.views import SessionView

logger = logging.getLogger("tryon.client")

ERASED: Final = "erased"
"""Code of a session that was there and is gone, where no frame said why."""

_CODES: Final = {
    CloseCode.UNAUTHORIZED: "invalid_token",
    CloseCode.NOT_FOUND: "not_found",
    CloseCode.GONE: ERASED,
    401: "invalid_token",
    404: "not_found",
}
"""Codes of refusals that came without one."""


class _Typed(msgspec.Struct, frozen=True):
    type: str


class _PolledSession(SessionView, frozen=True):
    missed: list[EventFrame] = []


_FRAMES: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "snapshot": msgspec.json.Decoder(SnapshotFrame),
    "event": msgspec.json.Decoder(EventFrame),
    "progress": msgspec.json.Decoder(ProgressFrame),
    "error": msgspec.json.Decoder(ErrorFrame),
    "bye": msgspec.json.Decoder(ByeFrame),
}
_typed: Final = msgspec.json.Decoder(_Typed)
_polled: Final = msgspec.json.Decoder(_PolledSession)
_VIEW_FIELDS: Final = SessionView.__struct_fields__


class _Link:
    """One connection: whether it is live, has worked, and how it was refused."""

    __slots__ = ("connection", "live_at", "refusal", "task", "transport", "worked")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.transport = connection.transport
        self.live_at: float | None = None
        self.worked = False
        self.refusal: str | None = None
        self.task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<_Link {self.transport} {'live' if self.live_at is not None else 'opening'}>"


class Following:
    """One session, followed; :meth:`updates` runs once."""

    def __init__(
        self,
        network: Network,
        session_id: str,
        access: Access,
        *,
        since: int = 0,
        session: SessionView | None = None,
        transports: Sequence[str] = TRANSPORTS,
        tokens: Tokens | None = None,
        chance: random.Random,
    ) -> None:
        """``since``: seq of the last event seen. ``session``: its state, if known.

        ``tokens``: what each connection shows, in place of ``access``; refused, it is
        renewed once before the session counts as refused.

        Raises ValueError without a known transport.
        """
        self._network = network
        self._session_id = session_id
        self._access = access
        self._tokens = tokens
        self._renewed = False
        """Whether the token was renewed since a connection was last answered."""
        self._shown = ""
        """The token that the last connection has shown."""
        self._state = FollowedSession(since, session)
        self._seen = session is not None
        self._ladder = Ladder(transports, chance)
        self._inbox: asyncio.Queue[tuple[_Link, Received | Exception]] = asyncio.Queue()
        self._link: _Link | None = None
        self._probe: _Link | None = None
        self._climb_at: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Following {self._session_id} {self._state!r} over {self._link!r}>"

    async def updates(self) -> AsyncGenerator[Update, None]:
        """Yield each change until the session has ended.

        Raises Problem when the session is gone or refuses this client. Closing the
        generator closes its connections.
        """
        self._link = self._open(self._ladder.best, 0.0)
        try:
            while not self._state.ended:
                link, item = await self._next()
                try:
                    updates = self._take(link, item)
                except Lost as lost:
                    updates = []
                    self._lost(link, lost)
                finally:
                    self._inbox.task_done()
                for update in updates:
                    yield update
                if self._state.behind:
                    self._lost(link, Lost(CloseCode.RESYNC, "a transition is missing"))
        finally:
            await self._close()

    # -- connections -------------------------------------------------------------------

    def _open(self, transport: str, pause: float, *, refused: Lost | None = None) -> _Link:
        connection = CONNECTIONS[transport](self._network, self._session_id, self._access, lambda: self._state.cursor)
        link = _Link(connection)
        link.task = asyncio.create_task(self._read(link, pause, refused), name=f"{transport} {self._session_id}")
        self._tasks.add(link.task)
        link.task.add_done_callback(self._tasks.discard)
        return link

    async def _read(self, link: _Link, pause: float, refused: Lost | None) -> None:
        """Hand everything that a connection yields to the inbox, and its end.

        ``refused``: the refusal of the last token; it is the end if there is no other.
        """
        end: Exception = Lost(CloseCode.ABNORMAL)
        try:
            await asyncio.sleep(pause)
            if self._tokens is not None:
                if refused is not None and not await self._tokens.renew(self._shown):
                    raise refused
                self._shown = await self._tokens.current()
                link.connection.show(self._shown)
            async with aclosing(link.connection.received()) as items:
                async for item in items:
                    self._inbox.put_nowait((link, item))
                    await self._inbox.join()
        except ValueError as error:  # an event stream that is none
            end = Lost(CloseCode.ABNORMAL, f"unreadable: {error}")
        except Exception as error:
            end = error
        self._inbox.put_nowait((link, end))

    async def _next(self) -> tuple[_Link, Received | Exception]:
        """Return the next item of a connection that counts; climb when it is time."""
        while True:
            try:
                async with asyncio.timeout_at(self._climb_at):
                    link, item = await self._inbox.get()
            except TimeoutError:
                self._climb_at = None
                self._climb(None)
                continue
            if link is self._link or link is self._probe:
                return link, item
            self._inbox.task_done()

    def _drop(self, link: _Link | None) -> None:
        if link is not None and link.task is not None:
            link.task.cancel()

    async def _close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            if not task.cancelling():  # else it is closing its connection
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the ladder --------------------------------------------------------------------

    def _live(self, link: _Link, *, worked: bool) -> None:
        """Note that a connection was answered; a probe takes over."""
        if worked and not link.worked:
            link.worked = True
            self._renewed = False
            self._ladder.worked(link.transport)
        if link.live_at is not None:
            return
        link.live_at = asyncio.get_running_loop().time()
        logger.debug("Following %s over %s", self._session_id, link.transport)
        if link is self._probe:
            self._drop(self._link)
            self._link, self._probe = link, None
            self._ladder.climbed()
        if link.transport == self._ladder.best:
            self._climb_at = None
        elif self._climb_at is None and self._probe is None:
            self._climb_later()

    def _climb_later(self) -> None:
        self._climb_at = asyncio.get_running_loop().time() + self._ladder.climb_pause()

    def _climb(self, after: str | None) -> None:
        """Try the best transport below ``after`` beside the present connection."""
        assert self._link is not None
        better = self._ladder.better(self._link.transport, after) if self._link.live_at is not None else None
        if better is not None:
            self._probe = self._open(better, 0.0)
        elif self._link.transport != self._ladder.best:
            self._climb_later()

    def _lost(self, link: _Link, lost: Lost) -> None:
        """Open the next connection. Raises Problem if none can help."""
        self._drop(link)
        self._state.behind = False
        if self._tokens is not None and not self._renewed and lost.code in (401, CloseCode.UNAUTHORIZED):
            self._renewed = True
            again = self._open(link.transport, 0.0, refused=lost)
            again.refusal = link.refusal
            if link is self._probe:
                self._probe = again
            else:
                self._link = again
            return
        if is_final(link.transport, lost):
            raise self._gone(
                link.refusal or lost.reason or _CODES.get(lost.code, f"closed_{lost.code}"), lost
            ) from None
        if link is self._probe:
            self._probe = None
            self._ladder.failed_climb(link.transport, lost)
            self._climb(link.transport)
            return
        self._drop(self._probe)
        self._probe = None
        now = asyncio.get_running_loop().time()
        live_seconds = 0.0 if link.live_at is None else now - link.live_at
        step = self._ladder.after(link.transport, lost, worked=link.worked, live_seconds=live_seconds)
        logger.info(
            "Connection lost: %s %s, retrying over %s in %.1f s", link.transport, lost, step.transport, step.pause
        )
        self._link = self._open(step.transport, step.pause)

    def _gone(self, code: str, lost: Lost) -> Problem:
        """Return the problem of a session that is not there, or not any more."""
        if code == "not_found" and self._seen:
            code = ERASED
        return Problem(code, status=lost.code if lost.refused else 0, retryable=False)

    # -- what arrives ------------------------------------------------------------------

    def _take(self, link: _Link, item: Received | Exception) -> list[Update]:
        """Return the updates that an item brings. Raises Lost."""
        if isinstance(item, Exception):
            raise item
        try:
            updates = self._poll(link, item) if item.polled else self._frame(link, item.data or b"")
        except msgspec.MsgspecError as error:
            raise Lost(CloseCode.ABNORMAL, f"unreadable: {error}") from None
        return [Update(update.session, update.event, link.transport) for update in updates]

    def _poll(self, link: _Link, item: Received) -> list[Update]:
        if link.transport != "sse":  # whose poll is a look aside
            # A long poll works once the network has let it wait.
            self._live(link, worked=item.waited or link.transport == "poll")
        if item.data is None:
            return []
        session = _polled.decode(item.data)
        self._seen = True
        view = SessionView(**{name: getattr(session, name) for name in _VIEW_FIELDS})
        return self._state.snapshot(view, session.missed)

    def _frame(self, link: _Link, data: str | bytes) -> list[Update]:
        kind = _typed.decode(data).type
        frame = _FRAMES[kind].decode(data) if kind in _FRAMES else None
        match frame:
            case SnapshotFrame():
                link.connection.quiet_seconds = frame.ping_seconds * WATCHDOG_PERIODS
                self._live(link, worked=True)
                self._seen = True
                return self._state.snapshot(frame.session, frame.missed)
            case EventFrame():
                return self._state.event(frame)
            case ProgressFrame():
                return self._state.progress(frame)
            case ErrorFrame():
                link.refusal = frame.code
            case ByeFrame():
                wait = frame.retry_after_ms
                raise Lost(frame.code, frame.reason, retry_after=None if wait is None else wait / 1000)
            case _:  # a ping, or a frame that this client does not know
                pass
        return []
