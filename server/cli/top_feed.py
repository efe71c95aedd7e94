"""The operator's stream, followed: what it has said so far, and how it is refused."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Final

import httpx
import msgspec

from server.domain import operator
from server.domain.operator import (
    Action,
    ActionsFrame,
    Frame,
    Overview,
    SessionRow,
    SessionsFrame,
    State,
    StateFrame,
)
from tryon.client.event_stream import EventStream

CONNECT_SECONDS: Final = 5.0
"""Maximum time to connect."""

SILENT_SECONDS: Final = 8.0
"""Time without a frame after which the stream is lost; a state comes every second."""

BACKOFF_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses before the next try, each spread by a quarter; the last one repeats."""

_frame: Final = msgspec.json.Decoder(Frame).decode
_overview: Final = msgspec.json.Decoder(Overview).decode


class Refused(Exception):
    """The server does not show its operator's page; the text says why."""

    def __init__(self, status: int, text: str, *, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


class Lost(Exception):
    """There was no answer, or the stream ended; the text says why."""


class Picture:
    """Everything that the server has said, as it is now."""

    def __init__(self) -> None:
        self.operator = ""
        self.version = ""
        self.state: State | None = None
        self.actions: list[Action] = []
        self._sessions: dict[str, SessionRow] = {}

    def __repr__(self) -> str:
        return f"<Picture sessions={len(self._sessions)}>"

    @property
    def sessions(self) -> list[SessionRow]:
        """Return the sessions, the newest first."""
        return [self._sessions[each] for each in sorted(self._sessions, reverse=True)]

    def take(self, frame: Frame) -> None:
        """Bring the picture up to date."""
        match frame:
            case Overview():
                self.operator, self.version = frame.operator, frame.version
                self.state, self.actions = frame.state, frame.actions
                self._sessions = {row.session_id: row for row in frame.sessions}
            case StateFrame():
                self.state = frame.state
            case SessionsFrame():
                self._sessions |= {row.session_id: row for row in frame.changed}
                for session_id in frame.gone:
                    self._sessions.pop(session_id, None)
            case ActionsFrame():
                known = {action.id: action for action in [*self.actions, *frame.actions]}
                newest = sorted(known, reverse=True)[: operator.MAX_ACTIONS]
                self.actions = [known[each] for each in newest]
            case _:
                raise Lost("the server is stopping")


class Feed:
    """The calls to one server, as one operator."""

    def __init__(self, server: str, token: str) -> None:
        self._server = server
        timeout = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
        self._http = httpx.AsyncClient(
            base_url=server, headers={"Authorization": f"Bearer {token}"}, timeout=timeout, follow_redirects=False
        )

    def __repr__(self) -> str:
        return f"<Feed of {self._server}>"

    async def close(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    async def overview(self) -> tuple[Overview, bytes]:
        """Return everything once, and its JSON. Raises Refused, Lost."""
        try:
            answer = await self._http.get(operator.OVERVIEW)
            self._check(answer)
            return _overview(answer.content), answer.content
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise Lost(_reason(error)) from error

    async def frames(self) -> AsyncIterator[tuple[Frame, bytes]]:
        """Yield the frames of one connection, and their JSON. Raises Refused, Lost."""
        stream = EventStream()
        try:
            async with self._http.stream("GET", operator.EVENTS) as answer:
                self._check(answer)
                async for piece in answer.aiter_raw():
                    for data in stream.feed(piece):
                        yield _frame(data), data
        except (httpx.HTTPError, msgspec.DecodeError, ValueError) as error:
            raise Lost(_reason(error)) from error
        raise Lost("the stream ended")

    async def follow(self, on_frame: Callable[[Frame, bytes], None], on_lost: Callable[[str, float], None]) -> None:
        """Follow for ever; a lost stream is opened again with growing pauses.

        ``on_lost`` is given the reason and the pause. Raises Refused, and Lost if even
        the first connection brings nothing.
        """
        failures, seen = 0, False
        while True:
            try:
                async for frame, data in self.frames():
                    failures, seen = 0, True
                    on_frame(frame, data)
            except Refused as refused:
                if not seen or refused.status in (401, 404):
                    raise
                reason, pause = str(refused), refused.retry_after or BACKOFF_SECONDS[-1]
            except Lost as lost:
                if not seen:
                    raise
                reason = str(lost)
                pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)] * random.uniform(0.75, 1.25)
            failures += 1
            on_lost(reason, pause)
            await asyncio.sleep(pause)

    def _check(self, answer: httpx.Response) -> None:
        """Raise Refused in words unless the answer is what was asked for."""
        status = answer.status_code
        retry_after = answer.headers.get("Retry-After", "")
        seconds = float(retry_after) if retry_after.isdecimal() else None
        if status == 401:
            text = "this is no operator's token of that server. Its TRYON_OPS_TOKEN has them."
        elif status == 404:
            text = f"{self._server} has no operator's page. It needs TRYON_OPS_TOKEN, and a restart."
        elif status == 429:
            text = f"too many wrong tokens came from this address. Try again in {seconds or 60:.0f} s."
        elif status != 200:
            text = f"{self._server} answered {status}. Is it the address of a TryOn Push server?"
        elif not answer.headers.get("Content-Type", "").startswith(("text/event-stream", "application/json")):
            text = f"{self._server} answered with something else. Is it the address of a TryOn Push server?"
        else:
            return
        raise Refused(status, text, retry_after=seconds)


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
