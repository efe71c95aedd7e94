"""A running web process with two operators."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

import httpx
import msgspec
import pytest

from server.domain import operator
from testkit.running import StartWeb, Web
from tryon.client.event_stream import EventStream

ADA: Final = "ada-0123456789abcdefghijkl"
BEN: Final = "ben-0123456789abcdefghijkl"


def bearer(token: str = ADA) -> dict[str, str]:
    """Return the headers of a program of this operator."""
    return {"Authorization": f"Bearer {token}"}


class Screen:
    """What an operator's page has been sent."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._stream = EventStream()
        self._ready: list[dict[str, Any]] = []

    async def next(self, *types: str) -> dict[str, Any]:
        """Return the next frame of these types."""
        while True:
            while self._ready:
                frame = self._ready.pop(0)
                if frame["type"] in types:
                    return frame
            piece = await anext(self._pieces)
            self._ready += [msgspec.json.decode(data, type=dict[str, Any]) for data in self._stream.feed(piece)]

    async def row(self, session_id: str, **wanted: object) -> dict[str, Any]:
        """Return a session's row once it has these values."""
        while True:
            frame = await self.next("overview", "sessions")
            for row in frame.get("changed", frame.get("sessions", [])):
                if row["session_id"] == session_id and wanted.items() <= row.items():
                    return row  # type: ignore[no-any-return]  # JSON


class Look(Protocol):
    def __call__(self, web: Web, token: str = ADA) -> AbstractAsyncContextManager[Screen]: ...


@pytest.fixture
def look() -> Look:
    """Open an operator's stream."""

    @asynccontextmanager
    async def opened(web: Web, token: str = ADA) -> AsyncIterator[Screen]:
        timeout = httpx.Timeout(20)
        async with web.client.stream("GET", operator.EVENTS, headers=bearer(token), timeout=timeout) as answer:
            assert answer.status_code == 200, await answer.aread()
            yield Screen(answer.aiter_raw())

    return opened


@pytest.fixture
async def web(start_web: StartWeb) -> Web:
    return await start_web(ops_tokens=(ADA, BEN))
