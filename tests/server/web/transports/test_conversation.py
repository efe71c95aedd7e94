"""Pings and syncs of a WebSocket, and their answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from server.web.serving.handshake import Handshake
from server.web.transports.ws_frames import TEXT
from testkit.running import Web, until
from tests.server.web.transports.kit import PING_TEXT, WRONG, raw
from tests.server.web.transports.test_ws_frames import masked
from tryon.protocol.errors import Unavailable

BOTH_PATHS = True


async def test_messages_before_the_snapshot_are_not_answered(
    web: Web, ws: type[asyncio.Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger that sends sync and ping gets the refusal and nothing else."""
    session, _ = await web.submit()
    look, gate = web.services.sessions.reads.read, asyncio.Event()

    async def slow_look(*args: Any, **options: Any) -> Any:
        await gate.wait()
        return await look(*args, **options)

    monkeypatch.setattr(type(web.services.sessions.reads), "read", staticmethod(slow_look))
    if ws is Handshake:  # it is let in before it is answered: it can only speak with its request
        early = masked(TEXT, b'{"type":"sync","since":0}') + PING_TEXT
        async with asyncio.TaskGroup() as group:
            group.create_task(until_then(lambda: web.hub.followers == 1, gate.set))
            async with raw(web, session.id, WRONG, early) as hasty:
                told = [(await hasty.frame())[1] for _ in range(2)]
                assert [json.loads(frame)["type"] for frame in told] == ["error", "bye"]
                assert await hasty.until_closed() == 4504
        return
    async with web.follow(session.id, WRONG) as client:
        await client.send({"type": "sync", "since": 0})
        await client.send({"type": "ping"})
        gate.set()
        assert await client.rest() == 4504
        assert client.types == ["error", "bye"]


async def until_then(condition: Callable[[], bool], act: Callable[[], None]) -> None:
    await until(condition)
    act()


async def test_ping_is_answered_by_a_pong(web: Web) -> None:
    """The pong holds the time."""
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await client.send({"type": "ping"})
        assert set(await client.next("pong")) == {"type", "at"}


@pytest.mark.parametrize(
    "message",
    [
        "",
        "hello",
        "[]",
        "null",
        '{"type":7}',
        '{"type":"dance"}',
        '{"type":"sync","since":"x"}',
        '{"a":1}',
        b"\x00\xff",
    ],
)
async def test_unknown_message_is_ignored(web: Web, message: str | bytes) -> None:
    """No message closes the connection or is answered."""
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await client.connection.send(message)
        await client.send({"type": "ping"})
        await client.next("pong")
        assert client.types == ["snapshot", "pong"]


async def test_sync_brings_a_snapshot_with_missed_events(web: Web) -> None:
    """The snapshot's ``missed`` holds the events after ``since``."""
    session, token = await web.submit()
    await web.begin(session)
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await client.send({"type": "sync", "since": 1})
        snapshot = await client.next("snapshot")
        assert snapshot["session"]["seq"] == 2
        assert [event["seq"] for event in snapshot["missed"]] == [2]


async def test_one_sync_a_second_is_answered(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five syncs at once the first is answered."""
    monkeypatch.setattr("server.web.transports.inbound.SYNC_SECONDS", 60.0)  # a busy machine takes a second
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        for _ in range(5):
            await client.send({"type": "sync", "since": 0})
        await client.next("snapshot")
        await client.send({"type": "ping"})
        await client.next("pong")
        assert client.types == ["snapshot", "snapshot", "pong"]


@pytest.mark.parametrize("since", [-5, 10**9, 2**31, 2**63, 10**30])
async def test_sync_accepts_any_seq(web: Web, since: int) -> None:
    """A seq that is negative or larger than any is harmless."""
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await client.send({"type": "sync", "since": since})
        assert (await client.next("snapshot"))["session"]["seq"] == 1
        await client.send({"type": "ping"})
        await client.next("pong")


async def test_sync_never_steps_back_while_events_flow(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """No snapshot is older than an event sent before it, and no event is lost."""
    monkeypatch.setattr("server.web.transports.inbound.SYNC_SECONDS", 0.0)
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        last = (await client.next("snapshot"))["session"]["seq"]

        async def work() -> None:
            for _ in range(15):
                claim = await web.begin(session)
                await web.services.sessions.claims.requeue(claim, burnt=False, reason="drained")
            await web.complete(await web.begin(session))

        async def ask() -> None:
            for _ in range(60):
                await client.send({"type": "sync", "since": 0})
                await asyncio.sleep(0.005)

        working, asking = asyncio.create_task(work()), asyncio.create_task(ask())
        await client.rest()
        await working
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        for frame in client.frames[1:]:
            if frame["type"] == "snapshot":
                assert frame["session"]["seq"] >= last
                last = frame["session"]["seq"]
                assert [event["seq"] for event in frame["missed"]] == list(range(1, last + 1))
            elif frame["type"] == "event":
                assert frame["seq"] == last + 1
                last = frame["seq"]
        assert last == 33
        assert client.types.count("snapshot") > 3


async def test_failing_sync_asks_to_reconnect(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error closes the socket with 4001."""

    async def fail(*args: Any, **options: Any) -> Any:
        raise ValueError("a bug")

    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        monkeypatch.setattr(type(web.services.sessions.reads), "read_again", fail)
        await client.send({"type": "sync", "since": 0})
        assert await client.rest() == 4001
        assert client.frames[-1]["reason"] == "internal_error"


async def test_sync_without_a_database_keeps_the_cursor(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client gets a ping, and the event that came during the read."""
    asked, read = asyncio.Event(), asyncio.Event()

    async def away(*args: Any, **options: Any) -> Any:
        asked.set()
        await read.wait()
        raise Unavailable

    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        with monkeypatch.context() as patch:
            patch.setattr(type(web.services.sessions.reads), "read_again", away)
            await client.send({"type": "sync", "since": 0})
            await asked.wait()
            claim = await web.begin(session)  # comes while it is read
            read.set()
            # The event is pushed by whichever is faster, so either frame may be first.
            news = [await client.next("event", "ping") for _ in range(2)]
            assert sorted(frame["type"] for frame in news) == ["event", "ping"]
        await web.complete(claim)
        assert await client.rest() == 1000
        assert client.story() == [1, 2, 3]
