"""One connection of each transport: the frames it yields, and how it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tryon.client.connection import CONNECTIONS, Access, Lost, Received
from tryon.client.network import Answer, NoAnswer, Socket


class ScriptedStream:
    """An answer whose pieces are known."""

    def __init__(self, answer: Answer) -> None:
        self.status, self.headers = answer.status, answer.headers
        self._pieces = [answer.body] if answer.body else []

    async def piece(self) -> bytes | None:
        """Return the body, then None."""
        return self._pieces.pop(0) if self._pieces else None


class ScriptedNetwork:
    """A network that gives each request and stream the next answer of a list."""

    def __init__(self, *answers: Answer | NoAnswer) -> None:
        self.answers = list(answers)
        self.paths: list[str] = []

    def _next(self, path: str) -> Answer:
        self.paths.append(path)
        answer = self.answers.pop(0)
        if isinstance(answer, NoAnswer):
            raise answer
        return answer

    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", seconds: float
    ) -> Answer:
        """Return the next answer."""
        return self._next(path)

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, headers: Mapping[str, str], seconds: float
    ) -> AsyncIterator[ScriptedStream]:
        """Return the next answer as a stream."""
        yield ScriptedStream(self._next(path))

    def socket(self, path: str, *, subprotocols: Sequence[str], seconds: float) -> AbstractAsyncContextManager[Socket]:
        """Raise NoAnswer."""
        raise NoAnswer("no sockets")


async def lost(transport: str, *answers: Answer | NoAnswer) -> tuple[list[Received], Lost]:
    """Return everything that a connection yields, and its end."""
    connection = CONNECTIONS[transport](ScriptedNetwork(*answers), "s", Access(token="t" * 22), lambda: 3)
    items: list[Received] = []
    try:
        async for item in connection.received():
            items.append(item)
    except Lost as end:
        return items, end
    raise AssertionError("a connection ends with Lost")


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses between polls, which take no time."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("tryon.client.connection.asyncio.sleep", sleep)
    return pauses


@pytest.mark.parametrize("transport", ["long-poll", "poll"])
async def test_poll_has_reached_once_it_was_answered(slept: list[float], transport: str) -> None:
    """Take a failure after the first answer for one of this transport."""
    _, end = await lost(transport, NoAnswer("refused"))
    assert not end.reached
    _, end = await lost(transport, Answer(200, {}, b"{}"), NoAnswer("cut"))
    assert end.reached


async def test_unchanged_poll_keeps_the_servers_hint(slept: list[float]) -> None:
    """Pause as a 304 says, and as long as ever without a hint."""
    await lost("poll", Answer(304, {"retry-after": "9"}, b""), Answer(304, {}, b""), NoAnswer("cut"))
    assert slept == [9.0, 2.0]


async def test_refused_stream_names_code_and_pause() -> None:
    """End with everything that the refusal says."""
    _, end = await lost("sse", Answer(429, {"retry-after": "7"}, b'{"code": "rate_limited"}'))
    assert (end.code, end.reason, end.retry_after, end.reached) == (429, "rate_limited", 7.0, True)


async def test_stream_without_content_polls_once() -> None:
    """Read the session where the server has nothing left to stream."""
    items, end = await lost("sse", Answer(204, {}, b""), Answer(200, {}, b"{}"))
    assert [(item.data, item.polled) for item in items] == [(b"{}", True)]
    assert end.code == 204


@pytest.mark.parametrize(
    ("body", "code", "retry_after"), [(b"retry: 1000\n\n", 503, 1.0), (b"retry: 1000\ndata: {}\n\n", 1006, None)]
)
async def test_stream_pause_counts_before_the_first_frame(body: bytes, code: int, retry_after: float | None) -> None:
    """Keep the pause of a stream without room; back off after one that stood."""
    _, end = await lost("sse", Answer(200, {}, body))
    assert (end.code, end.retry_after) == (code, retry_after)
