"""``GET /api/tryon/sessions/{id}``: a plain read, or a long poll.

A long poll waits for events on the same hub as a socket: it is one more follower, and
the database is not asked again and again. The answer is what a snapshot shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from server.services import Services
from server.sessions.reads import SessionRead
from server.web.common.answers import json_response, session_answer
from server.web.common.credentials import client_address, counted, credential_of
from server.web.common.etags import matches
from server.web.common.fields import fields, query
from server.web.push.follower import Follower
from server.web.push.hub import Hub
from server.web.transports.connection_limits import ConnectionLimits
from server.web.transports.joining import Joining, cursor_of
from tryon.protocol.errors import BadRequest
from tryon.protocol.numbers import decimal
from tryon.protocol.states import GoneReason, Status
from tryon.protocol.views import SessionView

POLL_SECONDS: Final = {Status.CREATED: 2, Status.PROCESSING: 1}
"""Retry-After by status, in seconds: how often a poll is worth its cost."""

MAX_WAIT_SECONDS: Final = 60.0
"""Maximum ``wait`` of a long poll, in seconds."""


class _Waiter(Follower):
    """A follower that wakes up at the first news; a read then finds out which."""

    __slots__ = ("_progress_counts", "is_over", "news")

    def __init__(self, session_id: str, *, progress_counts: bool) -> None:
        super().__init__(session_id)
        self.news = asyncio.Event()
        self.is_over = False
        self._progress_counts = progress_counts

    def __repr__(self) -> str:
        return f"<_Waiter {self.session_id} seq={self.seq} is_over={self.is_over}>"

    def over(self) -> None:
        """End the wait, whether there is news or not."""
        self.is_over = True
        self.news.set()

    async def news_until(self, end: float) -> bool:
        """Wait for the next news until ``end`` (the loop's time); return if it came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                await self.news.wait()
        there = self.news.is_set()
        self.news.clear()
        return there

    def event(self, frame: bytes) -> None:
        """Wake up."""
        self.news.set()

    def progress(self, frame: bytes) -> None:
        """Wake up if progress counts as news."""
        if self._progress_counts:
            self.news.set()

    def ping(self, frame: bytes) -> None:
        """Do nothing: a poll has no watchdog."""

    def end(self, status: str) -> None:
        """Wake up."""
        self.news.set()

    def gone(self, reason: GoneReason) -> None:
        """Wake up; the read answers 404."""
        self.news.set()

    def drain(self, retry_after_ms: int) -> None:
        """Answer now: the server is stopping."""
        self.over()

    def too_old(self, retry_after_ms: int) -> None:
        """Answer now."""
        self.over()


class Polls:
    """The reads and the waiting polls of one process."""

    def __init__(self, services: Services, hub: Hub, limits: ConnectionLimits, joining: Joining) -> None:
        self._config = services.config
        self._reads = services.sessions.reads
        self._hub = hub
        self._limits = limits
        self._joining = joining

    def __repr__(self) -> str:
        return f"<Polls {self._limits!r}>"

    async def session(self, request: Request) -> Response:
        """Answer with the session, at once or, with ``?since=&wait=``, at its news.

        200 on a transition after ``since`` (or, against If-None-Match, on progress),
        304 when the time is over, 200 at once when the session has ended. ``since``
        alone adds ``missed`` to the answer.
        """
        session_id = request.path_params["session_id"]
        since = cursor_of(query(request.scope).get("since"))
        wait = _wait(query(request.scope).get("wait"))
        known = fields(request.scope, b"if-none-match")
        if not wait or self._hub.draining:
            read = await self._reads.read(session_id, credential_of(request), since=since)
            return self._answer(read, since, known)
        address = counted(client_address(request, self._config))
        if (refusal := self._limits.refusal(address)) is not None:
            raise refusal
        with self._limits.taken(address):
            read, news = await self._wait_for_news(request, session_id, since, known, wait)
        return self._answer(read, since, known, news=news)

    async def _wait_for_news(
        self, request: Request, session_id: str, since: int | None, known: list[str], wait: float
    ) -> tuple[SessionRead, bool]:
        """Return the session at its first news or after the wait, and which it is."""
        waiter = _Waiter(session_id, progress_counts=bool(known))
        credential = credential_of(request)
        async with self._joining.joined(waiter, credential, since=since, transport="poll") as read:
            if news := _is_news(read, since, known):
                return read, news
            self._hub.release(waiter, read.session)
            end = asyncio.get_running_loop().time() + wait
            async with _on_disconnect(request, waiter.over):
                while await waiter.news_until(end):
                    read = await self._reads.read(session_id, credential, since=since)
                    news = _is_news(read, since, known)
                    if news or waiter.is_over:
                        break
            return read, news
        raise AssertionError("unreachable")

    def _answer(self, read: SessionRead, since: int | None, known: list[str], *, news: bool | None = None) -> Response:
        """Return 200 or 304.

        ``news``: the finding of a long poll; None: a plain read, where only the ETag
        decides.
        """
        etag = _etag(read)
        headers = {"ETag": etag, "Cache-Control": "no-store", "Vary": "Authorization, X-Client-Token"}
        if not read.view.terminal:
            headers["Retry-After"] = str(POLL_SECONDS[read.view.status])
        if news is False or (news is None and matches(known, etag)):
            return Response(status_code=304, headers=headers)
        self._hub.deliveries.note_shown(read.session)
        return json_response(session_answer(read.view, missed=None if since is None else read.missed), headers=headers)


@contextlib.asynccontextmanager
async def _on_disconnect(request: Request, call: Callable[[], None]) -> AsyncIterator[None]:
    """Call when the client disconnects while this is open.

    Its connection must not count until the wait is over.
    """

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        call()

    task = asyncio.create_task(watch(), name="poll-watch")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _is_news(read: SessionRead, since: int | None, known: list[str]) -> bool:
    """Return whether a waiting poll may be answered with this."""
    if read.view.terminal or (since is None and not known):
        return True
    return (since is not None and read.view.seq > since) or (bool(known) and not matches(known, _etag(read)))


def _wait(text: str | None) -> float:
    """Return the seconds to wait, at most MAX_WAIT_SECONDS; raise BadRequest."""
    if text is None:
        return 0.0
    seconds = decimal(text)
    if seconds is None:
        raise BadRequest("bad_request", "wait must be a number of seconds.")
    return min(seconds, MAX_WAIT_SECONDS)


def _etag(read: SessionRead) -> str:
    """Return a weak ETag: it changes with seq, progress and the kind of credential.

    It does not change with the signatures of the links.
    """
    view: SessionView = read.view
    word = (
        f"{view.seq} {view.stage} {view.progress} {view.eta_seconds} {view.queue_position} {read.access.until is None}"
    )
    return f'W/"{view.seq}-{hashlib.blake2s(word.encode(), digest_size=6).hexdigest()}"'
