"""Joining a session over a WebSocket, at every moment of its life."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import Any

import pytest

from server.web.serving.handshake import Handshake
from server.web.transports.connection_limits import ConnectionLimits
from testkit.running import StartWeb, Web, until
from tests.server.web.transports.kit import WRONG, refused, slow_read, upgrade

BOTH_PATHS = True


async def test_client_follows_a_session_to_its_end(web: Web) -> None:
    """Snapshot, event, progress, terminal event, bye: field by field."""
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        snapshot = await client.next()
        assert snapshot["type"] == "snapshot"
        assert (snapshot["session"]["session_id"], snapshot["session"]["status"]) == (session.id, "created")
        assert (snapshot["missed"], snapshot["ping_seconds"]) == ([], 25)
        claim = await web.begin(session)
        event = await client.next("event")
        assert event == {
            "type": "event",
            "session_id": session.id,
            "seq": 2,
            "event": "processing",
            "from": "created",
            "status": "processing",
            "terminal": False,
            "at": event["at"],
            "data": {"attempt": 1, "processor": "mock"},
        }
        await web.services.sessions.claims.report(claim, 0.4, "rendering", 1.8)
        progress = await client.next("progress")
        assert (progress["seq"], progress["progress"], progress["stage"]) == (2, 0.4, "rendering")
        await web.complete(claim)
        end = await client.next("event")
        assert (end["seq"], end["event"], end["from"], end["terminal"]) == (3, "completed", "processing", True)
        assert (await web.client.get(end["data"]["output"])).content == b"\xff\xd8\xff\xe0 result"
        assert await client.next() == {
            "type": "bye",
            "code": 1000,
            "reason": "completed",
            "reconnect": False,
            "retry_after_ms": None,
        }
        assert await client.rest() == 1000


async def test_failure_is_delivered_with_its_error(web: Web) -> None:
    """The failed event holds the error's code and whether it is retryable."""
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")  # else it may be read after the end, and the event is in it
        claim = await web.begin(session)
        await web.services.sessions.claims.fail(claim, "mock_failure")
        assert await client.rest() == 1000
        event = next(frame for frame in client.frames if frame.get("event") == "failed")
        assert event["data"]["error"]["code"] == "mock_failure"
        assert event["data"]["error"]["retryable"] is True
        assert client.frames[-1]["reason"] == "failed"


@pytest.mark.parametrize(
    ("query", "missed"), [("", []), ("?since=0", [1, 2, 3]), ("?since=1", [2, 3]), ("?since=3", [])]
)
async def test_joining_after_the_end_gets_snapshot_and_bye(web: Web, query: str, missed: list[int]) -> None:
    """``missed`` follows ``since``, and the socket is closed with 1000."""
    session, token = await web.submit()
    await web.complete(await web.begin(session))
    async with web.follow(session.id, token, query) as client:
        assert await client.rest() == 1000
    assert client.types == ["snapshot", "bye"]
    assert client.frames[0]["session"]["status"] == "completed"
    assert [event["seq"] for event in client.frames[0]["missed"]] == missed
    assert all(event["type"] == "event" and event["session_id"] == session.id for event in client.frames[0]["missed"])


async def test_since_brings_missed_events_then_live_ones(web: Web) -> None:
    """The snapshot's ``missed`` and the live events are one sequence."""
    session, token = await web.submit()
    claim = await web.begin(session)
    await web.services.sessions.claims.requeue(claim, burnt=False, reason="drained")
    async with web.follow(session.id, token, "?since=1") as client:
        snapshot = await client.next()
        assert [event["seq"] for event in snapshot["missed"]] == [2, 3]
        assert [event["event"] for event in snapshot["missed"]] == ["processing", "requeued"]
        await web.complete(await web.begin(session))
        await client.rest()
        assert client.story() == [3, 4, 5]


@pytest.mark.parametrize("since", ["-1", "abc", "", "1e3", "9" * 30, "٣", "4294967296"])
async def test_invalid_since_counts_as_zero(web: Web, since: str) -> None:
    """Any text as ``since`` gets a snapshot."""
    session, token = await web.submit()
    async with web.follow(session.id, token, f"?since={since}") as client:
        assert (await client.next())["type"] == "snapshot"


async def test_late_joiner_sees_the_last_progress(web: Web) -> None:
    """The snapshot shows the last reported progress and stage."""
    session, token = await web.submit()
    claim = await web.begin(session)
    async with web.follow(session.id, token) as early:
        await early.next("snapshot")
        await web.services.sessions.claims.report(claim, 0.8, "rendering", 0.5)
        await early.next("progress")
        async with web.follow(session.id, token) as late:
            view = (await late.next())["session"]
            assert (view["progress"], view["stage"]) == (0.8, "rendering")


async def test_all_sockets_get_the_same_events(web: Web) -> None:
    """Five sockets of one session get equal events."""
    session, token = await web.submit()
    async with contextlib.AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(web.follow(session.id, token)) for _ in range(5)]
        for tab in tabs:
            await tab.next("snapshot")
        await web.complete(await web.begin(session))
        for tab in tabs:
            await tab.rest()
        events = [[frame for frame in tab.frames if frame["type"] == "event"] for tab in tabs]
        assert len(events[0]) == 2
        assert all(each == events[0] for each in events)


async def test_socket_gets_no_other_session(web: Web) -> None:
    """A socket gets only the frames of its own session."""
    (one, token), (other, _) = await web.submit(), await web.submit()
    async with web.follow(one.id, token) as client:
        await client.next("snapshot")
        await web.complete(await web.begin(other))
        await web.complete(await web.begin(one))
        await client.rest()
        assert {frame["session_id"] for frame in client.frames if "session_id" in frame} == {one.id}


async def test_snapshot_comes_before_pings(start_web: StartWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings are due while the database is slow; the snapshot still comes first."""
    web = await start_web(ping_seconds=0.05)
    session, token = await web.submit()
    look, gate = web.services.sessions.reads.read, asyncio.Event()

    async def slow_look(*args: Any, **options: Any) -> Any:
        await gate.wait()
        return await look(*args, **options)

    monkeypatch.setattr(type(web.services.sessions.reads), "read", staticmethod(slow_look))

    async def open_late() -> None:
        await until(lambda: web.hub.followers == 1)
        due = time.monotonic() + 3 * web.config.ping_seconds
        await until(lambda: time.monotonic() > due)
        gate.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(open_late())
        async with web.follow(session.id, token) as client:
            assert (await client.next())["type"] == "snapshot"


async def test_joiner_is_drained_when_the_server_stops(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server begins to stop while the client's session is read."""
    session, token = await web.submit()
    gate = await slow_read(web, monkeypatch)

    async def stop_then_answer() -> None:
        await until(lambda: web.hub.followers == 1)
        web.hub.drain()
        gate.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(stop_then_answer())
        async with web.follow(session.id, token) as client:
            assert await client.rest(5) == 4000
            assert client.frames[-1]["retry_after_ms"] >= 1500
    await until(lambda: web.hub.followers == 0)


async def test_client_lost_while_joining_leaves_nothing(
    web: Web, ws: type[asyncio.Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a follower nor a counted connection remains."""
    if ws is not Handshake:
        pytest.skip("there it is answered first")
    session, token = await web.submit()
    gate = await slow_read(web, monkeypatch)
    taken: Counter[str] = Counter()
    take, give_back = ConnectionLimits.take, ConnectionLimits.give_back
    monkeypatch.setattr(
        ConnectionLimits, "take", lambda places, address: (taken.update([address]), take(places, address))
    )
    monkeypatch.setattr(
        ConnectionLimits, "give_back", lambda places, address: (taken.subtract([address]), give_back(places, address))
    )
    _, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(upgrade(session.id, token))
    await until(lambda: web.hub.followers == 1)
    assert taken.total() == 1
    writer.transport.abort()
    gate.set()
    await until(lambda: web.hub.followers == 0)
    assert taken.total() == 0


async def test_error_after_the_handshake_is_4001(
    web: Web, ws: type[asyncio.Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error asks the client to reconnect, and nothing remains."""
    if ws is not Handshake:
        pytest.skip("there it is the server's own 1011")

    def broken(*_: Any) -> None:
        raise RuntimeError("no snapshot")

    session, token = await web.submit()
    monkeypatch.setattr("server.web.transports.joining.Joining.show", broken)
    async with web.follow(session.id, token) as client:
        assert await client.rest(5) == 4001
    await until(lambda: web.hub.followers == 0)


@pytest.mark.parametrize("id", ["garbage", "x" * 2000, "019A0000-0000-7000-8000-000000000000"])
async def test_invalid_id_is_not_followed(web: Web, monkeypatch: pytest.MonkeyPatch, id: str) -> None:
    """It is refused like any unknown session, and no channel is subscribed."""
    joined: list[Any] = []
    monkeypatch.setattr("server.web.push.hub.Hub.join", lambda self, follower, **options: joined.append(follower))
    assert (await refused(web, id, WRONG)).connection.close_code == 4504
    assert joined == []


async def test_client_that_disconnects_is_forgotten(web: Web) -> None:
    """With a close frame or without, no follower remains."""
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        assert web.hub.followers == 1
    await until(lambda: web.hub.followers == 0)
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        client.connection.transport.abort()
    await until(lambda: web.hub.followers == 0)


async def test_client_resumes_on_another_server(start_web: StartWeb) -> None:
    """The second process goes on from the client's cursor."""
    first, second = await start_web(), await start_web()
    session, token = await first.submit()
    async with first.follow(session.id, token) as client:
        await client.next("snapshot")
    claim = await second.begin(session)
    async with second.follow(session.id, token, "?since=1") as client:
        assert [event["seq"] for event in (await client.next())["missed"]] == [2]
        await first.complete(claim)
        assert await client.rest() == 1000
        assert client.story() == [2, 3]
