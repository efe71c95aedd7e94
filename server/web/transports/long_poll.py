"""``GET /api/tryon/sessions/{id}``: one look, or a long poll that waits for news on the
same hub as a socket.

Exactly what a snapshot shows. Nothing here asks the database again and again: a waiting
poll is one more follower.
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
from server.web.push.follower import Follower
from server.web.push.hub import Hub
from server.web.transports.outbox import Places, cursor_of
from tryon.protocol.errors import BadRequest
from tryon.protocol.states import GoneReason, Status
from tryon.protocol.views import SessionView

POLL_SECONDS: Final = {Status.CREATED: 2, Status.PROCESSING: 1}
"""Retry-After of a session that is not at its end: how often a poll is worth its cost.
"""

MAX_WAIT_SECONDS: Final = 60.0


class _Waiter(Follower):
    """Wakes up at the first news. What it is, the following look tells."""

    __slots__ = ("_progress_counts", "is_over", "news")

    def __init__(self, session_id: str, *, progress_counts: bool) -> None:
        super().__init__(session_id)
        self.news = asyncio.Event()
        self.is_over = False
        self._progress_counts = progress_counts

    def over(self) -> None:
        """Answer now, news or not."""
        self.is_over = True
        self.news.set()

    async def news_until(self, end: float) -> bool:
        """Wait for the next news; False: the time (of the loop) is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                await self.news.wait()
        there = self.news.is_set()
        self.news.clear()
        return there

    def event(self, frame: bytes) -> None:
        self.news.set()

    def progress(self, frame: bytes) -> None:
        if self._progress_counts:
            self.news.set()

    def ping(self, frame: bytes) -> None:
        pass

    def end(self, status: str) -> None:
        self.news.set()

    def gone(self, reason: GoneReason) -> None:
        self.news.set()

    def drain(self, retry_after_ms: int) -> None:
        self.over()

    def too_old(self, retry_after_ms: int) -> None:
        self.over()


class Polls:
    def __init__(self, services: Services, hub: Hub, places: Places) -> None:
        self._config = services.config
        self._sessions = services.sessions
        self._hub = hub
        self._places = places

    async def session(self, request: Request) -> Response:
        """``?since=&wait=``: 200 on a transition after ``since`` (or, against
        If-None-Match, on progress), 304 when the time is over, 200 at once when the
        session is at its end. ``since`` alone adds ``missed`` to the answer.
        """
        session_id = request.path_params["session_id"]
        since = cursor_of(request.query_params.get("since"))
        wait = _wait(request.query_params.get("wait"))
        known = request.headers.get("if-none-match")
        if not wait or self._hub.draining:
            return self._answer(
                await self._sessions.reads.read(session_id, credential_of(request), since=since), since, known
            )
        waiter = _Waiter(session_id, progress_counts=known is not None)
        address = counted(client_address(request, self._config))
        refusal = self._places.refusal(address)
        if refusal is not None:
            raise refusal
        with self._places.taken(address):
            async with self._hub.following(waiter, transport="poll"):
                look = await self._sessions.reads.read(session_id, credential_of(request), since=since)
                self._places.check_session(self._hub.followers_of(session_id))
                if not _is_news(look, since, known):
                    self._hub.release(waiter, look.session)
                    end = asyncio.get_running_loop().time() + wait
                    async with _left(request, waiter.over):
                        while await waiter.news_until(end):
                            look = await self._sessions.reads.read(session_id, credential_of(request), since=since)
                            if waiter.is_over or _is_news(look, since, known):
                                break
        return self._answer(look, since, known, news=_is_news(look, since, known))

    def _answer(self, look: SessionRead, since: int | None, known: str | None, *, news: bool | None = None) -> Response:
        """``news``: what a long poll found; None: a plain look, where only the ETag
        decides.
        """
        etag = _etag(look)
        headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Vary": "Authorization, X-Client-Token"}
        if not look.view.terminal:
            headers["Retry-After"] = str(POLL_SECONDS[look.view.status])
        if news is False or (news is None and _matches(known, etag)):
            return Response(status_code=304, headers=headers)
        self._hub.deliveries.note_shown(look.session)
        return json_response(session_answer(look.view, missed=None if since is None else look.missed), headers=headers)


@contextlib.asynccontextmanager
async def _left(request: Request, tell: Callable[[], None]) -> AsyncIterator[None]:
    """While open, a client that goes away is noticed: it must not keep its place until
    the time is over.
    """

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        tell()

    task = asyncio.create_task(watch(), name="poll-watch")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _is_news(look: SessionRead, since: int | None, known: str | None) -> bool:
    """Whether a waiting poll may be answered with this."""
    if look.view.terminal or (since is None and known is None):
        return True
    return (since is not None and look.view.seq > since) or (known is not None and not _matches(known, _etag(look)))


def _wait(text: str | None) -> float:
    """Seconds, clamped to :data:`MAX_WAIT_SECONDS`. Raises BadRequest."""
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not seconds >= 0:
        raise BadRequest("bad_request", "wait must be a number of seconds.")
    return min(seconds, MAX_WAIT_SECONDS)


def _etag(look: SessionRead) -> str:
    """Weak: it changes with seq and progress and with who looks, not with the links'
    signatures.
    """
    view: SessionView = look.view
    word = (
        f"{view.seq} {view.stage} {view.progress} {view.eta_seconds} {view.queue_position} {look.access.until is None}"
    )
    return f'W/"{view.seq}-{hashlib.blake2s(word.encode(), digest_size=6).hexdigest()}"'


def _matches(if_none_match: str | None, etag: str) -> bool:
    """Weak comparison (RFC 9110 section 8.8.3.2)."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag.removeprefix("W/") in [
        tag.strip().removeprefix("W/") for tag in if_none_match.split(",")
    ]
