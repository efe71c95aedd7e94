"""A screen stays with its session, and records each thing that it was shown."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from server.chaos.checker import check
from server.chaos.following import Screen
from server.chaos.http import Network
from server.chaos.people import Person, World
from server.chaos.plans import photos, plans
from server.chaos.records import Clock, Closed, Heard, Recorder, Snapshot, Trouble
from server.chaos.verdict import Kind
from server.config.settings import Config
from server.domain.tokens import new_token
from server.system.clock import SystemClock
from testkit.running import Web, running_web, until
from tryon.client.connection import Access, Lost
from tryon.protocol.backoff import TRANSPORTS

MakeConfig = Callable[..., Config]


def screen(
    network: Network, record: Recorder, over: str = "ws", session: str = "s", token: str | None = None
) -> Screen:
    return Screen(
        network,
        record,
        client="c",
        owner="o",
        session=session,
        over=over,
        opened_by=Access(token=token or new_token()),
        number=0,
        choice=random.Random(1),
        clock=SystemClock(),
    )


# -- against the product ---------------------------------------------------------------


@pytest.fixture
async def web(config: MakeConfig) -> AsyncIterator[Web]:
    async with running_web(config()) as running:
        yield running


@pytest.mark.parametrize("over", TRANSPORTS)
async def test_screen_records_each_transition(web: Web, over: str) -> None:
    """Record each transition once, over each transport."""
    session, token = await web.submit()
    record = Recorder()
    watching = asyncio.create_task(
        screen(Network(f"http://127.0.0.1:{web.port}"), record, over, session.id, token).run()
    )
    await until(lambda: any(isinstance(each, Snapshot) for each in record.records))
    await web.complete(await web.begin(session))
    assert await asyncio.wait_for(watching, 10) == "completed"
    seen = {event.seq for each in record.records if isinstance(each, Snapshot) for event in each.missed}
    seen |= {each.event.seq for each in record.records if isinstance(each, Heard)}
    assert seen == {1, 2, 3}
    (closed,) = [each for each in record.records if isinstance(each, Closed)]
    assert closed.code == 1000


@pytest.mark.parametrize("over", ["ws", "sse", "long-poll"])
async def test_broken_connection_is_recorded_and_reopened(web: Web, over: str) -> None:
    """Record 1006 for a connection that was cut, and reconnect."""
    session, token = await web.submit()
    record, network = Recorder(), Network(f"http://127.0.0.1:{web.port}")
    watching = asyncio.create_task(screen(network, record, over, session.id, token).run())
    await until(lambda: any(isinstance(each, Snapshot) for each in record.records))
    await until(lambda: network._open)
    await asyncio.sleep(0)
    assert network.cut(1.0, random.Random(1)) == 1
    await until(lambda: any(isinstance(each, Closed) and each.code == 1006 for each in record.records))
    await web.complete(await web.begin(session))
    assert await asyncio.wait_for(watching, 10) == "completed"
    assert not {finding.kind for finding in check(record.records).findings} - {Kind.UNSERVED, Kind.LOST}


@pytest.mark.parametrize("over", TRANSPORTS)
async def test_erased_session_ends_the_screen(web: Web, over: str) -> None:
    """End as gone when the session is deleted."""
    session, token = await web.submit()
    record = Recorder()
    watching = asyncio.create_task(
        screen(Network(f"http://127.0.0.1:{web.port}"), record, over, session.id, token).run()
    )
    await until(lambda: any(isinstance(each, Snapshot) for each in record.records))
    await web.client.delete(f"/api/tryon/sessions/{session.id}", headers={"X-Client-Token": token})
    assert await asyncio.wait_for(watching, 10) == "gone"


@pytest.mark.parametrize("over", ["ws", "sse"])
async def test_each_socket_compares_the_clocks(web: Web, over: str) -> None:
    """Compare the clocks over WebSockets, which answer a ping."""
    session, token = await web.submit()
    record = Recorder()
    watching = asyncio.create_task(
        screen(Network(f"http://127.0.0.1:{web.port}"), record, over, session.id, token).run()
    )
    await until(lambda: any(isinstance(each, Snapshot) for each in record.records))
    if over == "ws":
        await until(lambda: any(isinstance(each, Clock) for each in record.records))
    await web.complete(await web.begin(session))
    await asyncio.wait_for(watching, 10)
    assert check(record.records).clocks == (over == "ws")


# -- against a server that lies --------------------------------------------------------


def event(seq: int, name: str, before: str | None) -> dict[str, Any]:
    common = {"type": "event", "session_id": "s", "at": f"2026-11-22T09:00:0{seq}.000Z", "data": {}}
    return common | {"seq": seq, "event": name, "from": before, "status": name, "terminal": name == "failed"}


EVENTS = [event(1, "created", None), event(2, "processing", "created"), event(3, "failed", "processing")]


def snapshot(seq: int) -> dict[str, Any]:
    missed, session = EVENTS[:seq], {"session_id": "s", "seq": seq, "terminal": seq == 3}
    return {
        "type": "snapshot",
        "session": session | {"status": EVENTS[seq - 1]["status"]},
        "missed": missed,
        "ping_seconds": 25,
    }


def bye(code: int, retry_after_ms: int | None = None) -> dict[str, Any]:
    return {"type": "bye", "code": code, "reason": "", "reconnect": code != 1000, "retry_after_ms": retry_after_ms}


@asynccontextmanager
async def lying(*frames: dict[str, Any]) -> AsyncIterator[Network]:
    """Serve these frames to every client."""

    async def tell(connection: ServerConnection) -> None:
        for frame in frames:
            await connection.send(json.dumps(frame))

    async with serve(tell, "127.0.0.1", 0, subprotocols=["tryon.v1"], compression=None) as server:  # type: ignore[list-item]
        yield Network(f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}")


LIES: dict[Kind, list[dict[str, Any]]] = {
    Kind.REPEAT: [snapshot(2), EVENTS[1], EVENTS[2], bye(1000)],
    Kind.GAP: [snapshot(1), EVENTS[2], bye(1000)],
    Kind.CHANGED: [snapshot(1), EVENTS[1], EVENTS[2], EVENTS[2] | {"seq": 4}, bye(1000)],
    Kind.WRONG: [snapshot(2), bye(1000)],
    Kind.FOREIGN: [snapshot(2), EVENTS[2] | {"session_id": "another"}, bye(1000)],
}


@pytest.mark.parametrize("kind", LIES)
async def test_screen_hides_no_lie(kind: Kind) -> None:
    """Record frames as they come, so that the checker finds each lie."""
    record = Recorder()
    async with lying(*LIES[kind]) as network:
        await asyncio.wait_for(screen(network, record).run(), 10)
    assert kind in {finding.kind for finding in check(record.records).findings}


NONSENSE: list[str] = [
    "<html>",
    "[]",
    '{"session": {}}',
    '{"type": "snapshot", "session": {"session_id": "s", "seq": "one", "terminal": false}, "missed": []}',
    json.dumps(EVENTS[0] | {"at": "yesterday"}),
    json.dumps(EVENTS[0] | {"seq": None}),
    '{"type": "bye", "code": "x", "reason": "", "retry_after_ms": null}',
]


@pytest.mark.parametrize("text", NONSENSE)
async def test_unreadable_frame_is_recorded(text: str) -> None:
    """Record frames that cannot be read, and reconnect."""
    record = Recorder()

    async def tell(connection: ServerConnection) -> None:
        await connection.send(text)

    async with serve(tell, "127.0.0.1", 0, subprotocols=["tryon.v1"], compression=None) as server:  # type: ignore[list-item]
        network = Network(f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}")
        watching = asyncio.create_task(screen(network, record).run())
        await until(lambda: sum(isinstance(each, Trouble) for each in record.records) >= 2 or watching.done())
        assert not watching.done(), "it comes back"
        watching.cancel()
    assert Kind.ERROR in {finding.kind for finding in check(record.records).findings}


@pytest.mark.parametrize("over", ["sse", "long-poll", "poll"])
async def test_unreadable_answer_is_recorded(over: str) -> None:
    """Record answers that cannot be read, and reconnect."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 %d OK\r\nContent-Length: 9\r\n\r\nretry: x\n" % (201 if asked.startswith(b"POST") else 200)
        )
        await writer.drain()
        writer.close()

    record = Recorder()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        network = Network(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        watching = asyncio.create_task(screen(network, record, over).run())
        await until(lambda: any(isinstance(each, Trouble) for each in record.records) or watching.done())
        assert not watching.done()
        watching.cancel()
        await Person(World(network, record, photos(1), patience=1, clock=SystemClock()), next(plans(1))).live()
    assert [each.who for each in record.records if isinstance(each, Trouble)][-1] == "p0"


async def test_following_ends_with_the_deadline() -> None:
    """Give up a session that has not ended by its deadline."""
    record = Recorder()
    async with lying(snapshot(1), bye(4000, retry_after_ms=50)) as network:
        person = Person(World(network, record, photos(1), patience=0.1, clock=SystemClock()), next(plans(1)))
        created, deadline = "2026-11-22T09:00:00.000Z", "2026-11-22T09:00:00.200Z"
        session = {"session_id": "s", "created_at": created, "deadline": deadline, "links": {"ws": ""}}
        assert await asyncio.wait_for(person._follow(session, "c", "ws"), 10) == "lost"


async def test_screen_reads_on_when_it_cannot_send() -> None:
    """Read the frames before the close, although a ping cannot be sent."""
    record = Recorder()
    async with lying(snapshot(2), EVENTS[2], bye(1000)) as network:
        talkative = screen(network, record)
        talkative._syncs = True
        assert await asyncio.wait_for(talkative.run(), 10) == "failed"
    assert {finding.kind for finding in check(record.records).findings} == {Kind.UNSERVED}


# -- coming back -----------------------------------------------------------------------


def pauses(*ways: Lost, times: int = 200) -> list[float]:
    """Return the longest pause after each loss in a row, of many screens."""
    network = Network("http://127.0.0.1:1")
    screens = [screen(network, Recorder()) for _ in range(times)]
    for number, each in enumerate(screens):
        each._choice = random.Random(number)
    return [max(each._pause(lost) for each in screens) for lost in ways]


def test_pauses_double_up_to_thirty_seconds() -> None:
    """Draw each pause from a bound that doubles with each failure."""
    longest = pauses(*[Lost(1006)] * 10)
    bounds = [min(30.0, 0.5 * 2**n) for n in range(10)]
    assert all(0.8 * bound < pause <= bound for pause, bound in zip(longest, bounds, strict=True))


def test_pauses_stay_bounded_after_many_failures() -> None:
    """Keep to the longest pause where doubling would overflow."""
    assert 0.0 <= pauses(*[Lost(1006)] * 1_100, times=1)[-1] <= 30.0


def test_named_pause_is_kept() -> None:
    """Wait exactly as long as the server says."""
    assert pauses(Lost(4000, retry_after=1.25), Lost(503, retry_after=7.0)) == [1.25, 7.0]


def test_resync_reconnects_at_once_then_backs_off() -> None:
    """Reconnect at once the first time, after a pause the second."""
    assert pauses(Lost(4001))[0] == 0.0
    assert pauses(Lost(4002), Lost(4002))[1] > 0.5


async def test_bye_with_a_pause_is_kept() -> None:
    """Wait as long as a `bye` says before the next connection."""
    record = Recorder()
    async with lying(snapshot(1), bye(4000, retry_after_ms=60_000)) as network:
        watching = asyncio.create_task(screen(network, record).run())
        await until(lambda: any(isinstance(each, Closed) and each.code == 4000 for each in record.records))
        await asyncio.sleep(0.3)
        assert sum(isinstance(each, Snapshot) for each in record.records) == 1
        watching.cancel()
