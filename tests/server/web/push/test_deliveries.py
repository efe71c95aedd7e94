"""The delivery log: when a session's end first reached a client, written once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from prometheus_client import REGISTRY

from server.config.settings import Config
from server.domain.bus_message import event_message
from server.domain.session import AuditEvent, Session
from server.services import open_services
from server.web.push import deliveries as receipts
from server.web.transports.outbox import Outbox
from server.web.transports.wire import WireSocket
from testkit.fixtures import StartValkey
from testkit.running import StartWeb, Web, running_web, until
from tryon.protocol.errors import Unavailable

MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "BATCH_SECONDS", 0.05)


def path(session: Session) -> str:
    return f"/api/tryon/sessions/{session.id}"


async def finished(web: Web) -> tuple[Session, str]:
    session, token = await web.submit()
    await web.complete(await web.begin(session))
    return session, token


async def written(web: Web, session: Session) -> Session:
    """Return the session's row as soon as its delivery is written."""
    async with asyncio.timeout(20):
        while True:
            row = await web.database.reader.get(session.id)
            assert row is not None
            if row.delivered_at is not None:
                return row
            await asyncio.sleep(0.01)


async def by_socket(web: Web, session: Session, token: str) -> None:
    async with web.follow(session.id, token) as client:
        assert await client.rest() == 1000


async def by_stream(web: Web, session: Session, token: str) -> None:
    async with web.client.stream("GET", f"{path(session)}/events", headers={"X-Client-Token": token}) as answer:
        assert [line async for line in answer.aiter_lines() if '"type":"bye"' in line]


async def by_poll(web: Web, session: Session, token: str) -> None:
    params = {"since": 2, "wait": 20}
    answer = await web.client.get(path(session), params=params, headers={"X-Client-Token": token})
    assert answer.json()["terminal"]


WAYS = {"socket": by_socket, "stream": by_stream, "poll": by_poll}


@pytest.mark.parametrize("way", WAYS)
async def test_followed_end_is_noted(web: Web, way: str) -> None:
    """Over each transport the end counts as delivered when it is handed over."""
    session, token = await web.submit()
    claim = await web.begin(session)
    following = asyncio.create_task(WAYS[way](web, session, token))
    await until(lambda: any(each.seq == 2 for each in web.hub.registry.all()))
    row = await web.database.reader.get(session.id)
    assert row is not None and row.delivered_at is None
    await web.complete(claim)
    await following
    told = await written(web, session)
    assert told.finished_at is not None and told.delivered_at is not None
    assert -0.01 < (told.delivered_at - told.finished_at).total_seconds() < 20  # 0.02 on an idle machine


@pytest.mark.parametrize("way", WAYS)
async def test_end_is_noted_when_joining_later(web: Web, way: str) -> None:
    """A snapshot that shows the end counts as its delivery."""
    session, token = await finished(web)
    await WAYS[way](web, session, token)
    await written(web, session)


async def test_held_end_is_noted_with_the_release(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that arrives during the join is delivered with the release."""
    session, token = await web.submit()
    claim = await web.begin(session)
    look = web.services.sessions.reads.read

    async def slow(*what: Any, **more: Any) -> Any:
        seen = await look(*what, **more)
        await web.complete(claim)  # after the snapshot was read, before it is sent
        await until(lambda: any(each._held for each in web.hub.registry.all()))
        return seen

    monkeypatch.setattr(web.services.sessions.reads, "read", slow)
    await by_socket(web, session, token)
    await written(web, session)


async def test_end_is_not_noted_when_cut(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose buffers are full is cut at the end, so it was not given it."""
    session, token = await web.submit()
    claim = await web.begin(session)
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        (socket,) = web.hub.registry.of(session.id)
        assert isinstance(socket, WireSocket)
        monkeypatch.setattr(WireSocket, "_stalled", lambda self: True)
        socket.pause_writing()  # its buffers are full, and it does not read
        await web.complete(claim)
        assert await client.rest() in (1006, 4002)
    another, token = await finished(web)
    await by_socket(web, another, token)
    await written(web, another)
    row = await web.database.reader.get(session.id)
    assert row is not None and row.delivered_at is None


async def test_swept_end_is_noted(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Without Redis the sweep brings the end, and it counts as delivered."""
    valkey = start_valkey()
    async with running_web(config(redis_url=valkey.url)) as web:
        session, token = await web.submit()
        claim = await web.begin(session)
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            valkey.kill()
            await web.complete(claim)
            assert await client.rest() == 1000
        await written(web, session)


async def test_history_shows_the_delivery_but_is_none(web: Web) -> None:
    """Reading the history does not deliver the end; afterwards it shows the time."""
    session, token = await finished(web)
    history = f"{path(session)}/history"
    for _ in range(2):
        answer = await web.client.get(history, headers={"X-Client-Token": token})
        assert answer.json()["delivered_at"] is None
    assert not web.hub.deliveries._handed
    await by_poll(web, session, token)
    row = await written(web, session)
    answer = await web.client.get(history, headers={"X-Client-Token": token})
    assert datetime.fromisoformat(answer.json()["delivered_at"]).timestamp() == pytest.approx(
        row.delivered_at.timestamp() if row.delivered_at else 0, abs=0.001
    )


async def test_first_delivery_counts_across_processes(start_web: StartWeb, database_url: str) -> None:
    """A second process neither notes nor overwrites a delivered end."""
    one, other = await start_web(), await start_web()
    session, token = await finished(one)
    await by_socket(one, session, token)
    first = (await written(one, session)).delivered_at
    await by_socket(other, session, token)
    assert not other.hub.deliveries._handed, "it can be seen that it was delivered before"
    other.hub.deliveries.note(session.id)  # as if both had been at the same moment
    await until(lambda: not other.hub.deliveries._handed)
    assert (await written(one, session)).delivered_at == first


async def test_simultaneous_ends_are_written_in_one_batch(
    start_web: StartWeb, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty ends within BATCH_SECONDS cost one transaction."""
    monkeypatch.setattr(receipts, "BATCH_SECONDS", 0.5)
    web = await start_web()
    batches: list[int] = []
    note = web.database.writer.note_delivered

    async def counted(handed: dict[str, float]) -> Any:
        batches.append(len(handed))
        return await note(handed)

    monkeypatch.setattr(web.database.writer, "note_delivered", counted)
    sessions = [(await finished(web))[0] for _ in range(20)]
    before = REGISTRY.get_sample_value("tryon_delivered_seconds_count") or 0
    for each in sessions:
        web.hub.deliveries.note(each.id)
    for each in sessions:
        await written(web, each)
    assert batches == [20]
    await until(lambda: REGISTRY.get_sample_value("tryon_delivered_seconds_count") == before + 20)


async def test_running_session_has_no_delivery(web: Web) -> None:
    """A note for a session that has not ended is dropped by the database."""
    session, _ = await web.submit()
    web.hub.deliveries.note(session.id)
    await until(lambda: not web.hub.deliveries._handed)
    row = await web.database.reader.get(session.id)
    assert row is not None and row.delivered_at is None


async def test_stopping_process_writes_the_last_notes(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes that wait for their batch are written when the process stops."""
    monkeypatch.setattr(receipts, "BATCH_SECONDS", 60.0)
    async with running_web(config()) as web:
        session, token = await finished(web)
        await by_socket(web, session, token)
        assert session.id in web.hub.deliveries._handed
    async with open_services(config()) as services:
        row = await services.database.reader.get(session.id)
        assert row is not None and row.delivered_at is not None


async def test_database_outage_only_delays_the_note(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note that could not be written is kept and written later."""
    session, _ = await finished(web)
    failed = asyncio.Event()
    with monkeypatch.context() as patch:

        async def away(handed: Any) -> Any:
            failed.set()
            raise Unavailable

        patch.setattr(web.database.writer, "note_delivered", away)
        web.hub.deliveries.note(session.id)
        async with asyncio.timeout(5):
            await failed.wait()
    await written(web, session)


async def test_batches_before_an_outage_are_not_repeated(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three batches the second fails; the first is not written again."""
    monkeypatch.setattr(receipts, "BATCH", 2)
    monkeypatch.setattr(receipts, "BATCH_SECONDS", 0.1)
    sessions = [(await finished(web))[0] for _ in range(5)]
    before = REGISTRY.get_sample_value("tryon_delivered_seconds_count") or 0
    note, batches = web.database.writer.note_delivered, 0

    async def away_at_the_second(handed: dict[str, float]) -> Any:
        nonlocal batches
        batches += 1
        if batches == 2:
            raise Unavailable
        return await note(handed)

    monkeypatch.setattr(web.database.writer, "note_delivered", away_at_the_second)
    for each in sessions:
        web.hub.deliveries.note(each.id)
    for each in sessions:
        await written(web, each)
    await until(lambda: not web.hub.deliveries._handed)
    assert batches == 4, "what was written down is not written again"
    assert REGISTRY.get_sample_value("tryon_delivered_seconds_count") == before + 5


async def test_end_is_not_delivered_to_a_client_that_left_during_a_sync(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client leaves while its new snapshot is read, which shows the end."""
    session, token = await web.submit()
    claim = await web.begin(session)
    read, gate, reading = web.services.sessions.reads.read_again, asyncio.Event(), asyncio.Event()

    async def gated(*args: Any, **options: Any) -> Any:
        reading.set()
        await gate.wait()
        return await read(*args, **options)

    monkeypatch.setattr(type(web.services.sessions.reads), "read_again", staticmethod(gated))
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await client.send({"type": "sync", "since": 0})
        await reading.wait()
    await until(lambda: not web.hub.followers)
    await web.complete(claim)
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "ws-sync")
    gate.set()
    await task
    assert not web.hub.deliveries._handed


async def test_end_is_not_delivered_to_a_client_that_left_without_a_snapshot(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end arrives during a sync, the client leaves, and the read then fails."""
    session, token = await web.submit()
    claim = await web.begin(session)
    gate, reading = asyncio.Event(), asyncio.Event()

    async def away(*args: Any, **options: Any) -> Any:
        reading.set()
        await gate.wait()
        raise Unavailable

    monkeypatch.setattr(type(web.services.sessions.reads), "read_again", staticmethod(away))
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        (follower,) = web.hub.registry.all()
        await client.send({"type": "sync", "since": 0})
        await reading.wait()
        await web.complete(claim)
        await until(lambda: follower.holds_end)
    await until(lambda: not web.hub.followers)
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "ws-sync")
    gate.set()
    await task
    assert not web.hub.deliveries._handed


async def test_end_is_not_delivered_to_a_stream_that_was_closed(web: Web) -> None:
    """Its unsent frames still leave, but nothing that comes later."""
    session, _ = await web.submit()
    stream = Outbox(session.id)
    web.hub.join(stream, transport="test")
    stream.resume(1)
    stream.drain(1000)
    message = event_message(await ended(web, session), web.services.sessions.access.issue().file)
    web.hub.receive(web.hub.registry.channel(session.id), message)
    web.hub.recovery.catch_up(session.id)
    await until(lambda: not web.hub.recovery._catching_up)
    assert not web.hub.deliveries._handed
    web.hub.leave(stream, transport="test")


async def ended(web: Web, session: Session) -> AuditEvent:
    """Cancel a session; return its last event."""
    await web.services.sessions.cancelling.cancel(session.id, session.owner)
    story = await web.database.reader.with_events(session.id, 0)
    assert story is not None
    return story.events[-1]


async def test_notes_are_dropped_above_the_limit(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database is unavailable no more than MAX_WAITING notes are kept."""
    monkeypatch.setattr(receipts, "MAX_WAITING", 3)
    for n in range(10):
        web.hub.deliveries.note(f"none-{n}")
    assert len(web.hub.deliveries._handed) == 3
    web.hub.deliveries._handed.clear()  # no ids that a database would take
