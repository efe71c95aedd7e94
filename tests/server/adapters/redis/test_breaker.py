"""Calls to a server that may hang: bounded, and then not made for a while."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from server.adapters.redis import breaker
from server.adapters.redis.breaker import Breaker


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no time-out for a stall of our own loop."""
    monkeypatch.setattr(breaker, "LATE_SECONDS", 60.0)
    monkeypatch.setattr(breaker, "PAUSE_SECONDS", 60.0)


async def hang(calls: Breaker) -> None:
    """Make a call that gets no answer."""
    with pytest.raises(TimeoutError):
        async with calls.call():
            await asyncio.Event().wait()


async def test_silent_server_is_called_once() -> None:
    """Fail the next call at once, without making it."""
    calls = Breaker(0.01, on_silence=lambda: None, part="bus")
    await hang(calls)
    made = False
    with pytest.raises(TimeoutError, match="silent"):
        async with calls.call():
            made = True
    assert not made


async def test_answer_ends_the_pause() -> None:
    """Call again as soon as a probe was answered."""
    calls = Breaker(0.01, on_silence=lambda: None, part="bus")
    await hang(calls)
    async with calls.call(anyway=True):
        pass
    async with calls.call():
        pass


async def test_refusal_causes_no_pause() -> None:
    """Call again at once after an error that came in time."""
    calls = Breaker(60.0, on_silence=lambda: None, part="bus")
    for _ in range(2):
        with pytest.raises(RedisConnectionError):
            async with calls.call():
                raise RedisConnectionError


async def test_silence_is_reported_for_every_call_that_met_it() -> None:
    """Report a silent server, and neither a refusal nor a call that was not made."""
    silences = []
    calls = Breaker(0.01, on_silence=lambda: silences.append(1), part="bus")
    with pytest.raises(RedisConnectionError):
        async with calls.call():
            raise RedisConnectionError
    assert silences == []
    for _ in range(2):
        await hang(calls)
    assert silences == [1]


async def test_stalled_loop_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call again at once when it was this process that stood still."""
    monkeypatch.setattr(breaker, "LATE_SECONDS", -1.0)  # any time-out comes too late
    calls = Breaker(0.01, on_silence=lambda: None, part="bus")
    await hang(calls)
    async with calls.call():
        pass
