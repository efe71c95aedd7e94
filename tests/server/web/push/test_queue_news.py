"""Places in the queue: shown everywhere alike, pushed when they change, and limited."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from server.adapters.database.changes import Moved
from server.domain.queue_place import Waiting, expected_seconds
from server.domain.session import Session
from server.services import Services
from server.sessions import queue_places as queue_places_module
from server.web.push import queue_news as queue_news_module
from server.web.push.hub import Hub
from testkit.fixtures import StartValkey
from testkit.following import blocks
from testkit.running import Client, StartWeb, Web, new_session, until
from tests.server.web.push.kit import Page, join, message, move
from tryon.protocol.states import Event

SESSIONS: Final = "/api/tryon/sessions"


@pytest.fixture
async def web(start_web: StartWeb, monkeypatch: pytest.MonkeyPatch, places: None) -> Web:
    """Start a web process that reads and announces places every 20 ms."""
    monkeypatch.setattr(queue_places_module, "WAITING_SECONDS", 0.02)
    monkeypatch.setattr(queue_news_module, "WAITING_SECONDS", 0.02)
    return await start_web(worker_jobs=2)


async def experience(web: Web, seconds: float = 4.0) -> None:
    """Register one worker and the usual run time of sessions, in seconds."""
    await web.services.queue.note_worker("w1")
    await web.services.queue.note_run("mock", seconds)


async def get(web: Web, session: Session, token: str) -> dict[str, Any]:
    answer = await web.client.get(f"{SESSIONS}/{session.id}", headers={"Authorization": f"Bearer {token}"})
    body: dict[str, Any] = answer.json()
    return body


async def waiting_at(web: Web, session: Session, token: str) -> tuple[int | None, float | None]:
    body = await get(web, session, token)
    return body["queue_position"], body["eta_seconds"]


async def eventually(web: Web, session: Session, token: str, place: tuple[int | None, float | None]) -> None:
    """Wait until a read shows this place; places are read every WAITING_SECONDS."""
    async with asyncio.timeout(5):
        while await waiting_at(web, session, token) != place:
            await asyncio.sleep(0.01)


async def take(web: Web, session: Session) -> Any:
    """Do as a worker does: take the job from the queue, then claim the session."""
    await web.services.queue.forget(session.id, session.attempt, session.enqueues)
    return await web.begin(session)


async def until_told(client: Client, position: int | None, eta: float | None) -> dict[str, Any]:
    while True:
        frame = await client.next("progress")
        if (frame.get("queue_position"), frame["eta_seconds"]) == (position, eta):
            return frame


# -- shown -----------------------------------------------------------------------------


async def test_upload_is_answered_with_its_place(web: Web, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a process that has not read the queue lately."""
    monkeypatch.setattr(
        queue_places_module, "WAITING_SECONDS", 3600
    )  # also by a process that has not read the queue lately
    await experience(web)
    image = (photos / "photo.webp").read_bytes()
    for place in ((1, 4.0), (2, 4.0), (3, 8.0)):
        answer = await web.client.post(SESSIONS, files={"image": image})
        body = answer.json()
        assert (body["queue_position"], body["eta_seconds"]) == place
        session = await web.database.reader.get(body["session_id"])
        assert session is not None
        assert await waiting_at(web, session, body["client_token"]) == place


async def test_place_follows_from_queue_and_workers(web: Web) -> None:
    """Two workers' slots take two sessions a round; more workers shorten the time."""
    await experience(web)
    waiting = [await web.submit() for _ in range(5)]
    for (session, token), place in zip(
        waiting, [(1, 4.0), (2, 4.0), (3, 8.0), (4, 8.0), (5, 12.0)], strict=True
    ):  # two at a time
        await eventually(web, session, token, place)
    await web.services.queue.note_worker("w2")
    await eventually(web, *waiting[4], (5, 8.0))


async def test_eta_is_unknown_without_workers_or_experience(web: Web) -> None:
    """The expected time is null until a worker lives and a session has completed."""
    session, token = await web.submit()
    await eventually(web, session, token, (1, None))
    await web.services.queue.note_run("mock", 4.0)
    await web.services.queue.note_worker("w1")
    await eventually(web, session, token, (1, 4.0))
    await web.services.queue.drop_worker("w1")
    await eventually(web, session, token, (1, None))


async def test_run_time_comes_from_completed_sessions(web: Web) -> None:
    """A completed session records how long it ran."""
    session, _ = await web.submit()
    assert await web.services.queue.run_seconds("mock") is None
    await web.complete(await take(web, session))
    seconds = await web.services.queue.run_seconds("mock")
    assert seconds is not None
    assert 0 <= seconds < 5


@pytest.mark.parametrize(
    ("position", "slots", "seconds"), [(1, 10, 3.0), (10, 10, 3.0), (11, 10, 6.0), (1, 0, None), (21, 10, 9.0)]
)
def test_expected_seconds(position: int, slots: int, seconds: float | None) -> None:
    """Each full round before a session adds one run time."""
    assert expected_seconds(position, run_seconds=3.0, slots=slots) == seconds
    assert expected_seconds(position, run_seconds=None, slots=slots) is None


async def test_place_is_null_when_the_session_starts(web: Web) -> None:
    """A running or ended session has no place."""
    await experience(web)
    session, token = await web.submit()
    await eventually(web, session, token, (1, 4.0))
    claim = await take(web, session)
    assert await waiting_at(web, session, token) == (None, None)
    await web.complete(claim)
    assert await waiting_at(web, session, token) == (None, None)


async def test_requeued_session_has_a_place_again(web: Web) -> None:
    """A session whose worker lost its lease waits again."""
    await experience(web)
    session, token = await web.submit()
    await web.services.sessions.claims.requeue(await take(web, session), burnt=True, reason="lease_lost")
    await eventually(web, session, token, (1, 4.0))


async def test_list_shows_places(web: Web) -> None:
    """An owner's list shows the same place as the session."""
    await experience(web)
    session, token = await web.submit()
    await eventually(web, session, token, (1, 4.0))
    listed = await web.client.get(SESSIONS, headers={"Authorization": f"Bearer {token}"})
    assert [(s["queue_position"], s["eta_seconds"]) for s in listed.json()["sessions"]] == [(1, 4.0)]


async def test_deadline_is_always_shown(web: Web) -> None:
    """Waiting or running, the deadline lies between creation and expiry."""
    session, token = await web.submit()
    for act in (None, web.begin):
        if act is not None:
            await act(session)
        body = await get(web, session, token)
        assert body["created_at"] < body["deadline"] < body["expires_at"]


# -- pushed ----------------------------------------------------------------------------


async def test_place_is_pushed_to_a_socket(web: Web) -> None:
    """Each move reaches the socket as progress, and never backwards."""
    await experience(web)
    first, _ = await web.submit()
    second, _ = await web.submit()
    last, token = await web.submit()
    await eventually(web, last, token, (3, 8.0))
    async with web.follow(last.id, token) as client:
        snapshot = (await client.next())["session"]
        assert (snapshot["queue_position"], snapshot["eta_seconds"]) == (3, 8.0)
        await take(web, first)
        frame = await until_told(client, 2, 4.0)
        assert (frame["session_id"], frame["seq"], frame["progress"], frame["stage"]) == (last.id, 1, None, None)
        await take(web, second)
        await until_told(client, 1, 4.0)
        await take(web, last)
        assert (await client.next("event"))["event"] == "processing"
    places = [frame["queue_position"] for frame in client.frames if frame["type"] == "progress"]
    assert places == sorted(places, reverse=True)


async def test_place_is_pushed_to_a_stream(web: Web) -> None:
    """Each move reaches an event stream as progress."""
    await experience(web)
    first, _ = await web.submit()
    last, token = await web.submit()
    await eventually(web, last, token, (2, 4.0))
    async with web.client.stream(
        "GET", f"{SESSIONS}/{last.id}/events", headers={"Authorization": f"Bearer {token}"}
    ) as response:
        told = (block.frame async for block in blocks(response))
        assert (await anext(told))["session"]["queue_position"] == 2
        await take(web, first)
        async with asyncio.timeout(5):
            while (frame := await anext(told)).get("queue_position") != 1:
                assert frame["type"] == "progress"


async def test_place_answers_a_poll_with_an_etag(web: Web) -> None:
    """A move answers a long poll that knows the ETag of the old place."""
    await experience(web)
    first, _ = await web.submit()
    last, token = await web.submit()
    await eventually(web, last, token, (2, 4.0))
    headers = {"Authorization": f"Bearer {token}"}
    path = f"{SESSIONS}/{last.id}"
    etag = (await web.client.get(path, headers=headers)).headers["etag"]
    poll = asyncio.create_task(
        web.client.get(path, params={"since": 1, "wait": 10}, headers=headers | {"If-None-Match": etag})
    )
    await until(lambda: web.hub.followers_of(last.id))
    await take(web, first)
    answer = await poll
    assert (answer.status_code, answer.json()["queue_position"], answer.json()["seq"]) == (200, 1, 1)


async def test_place_is_not_announced_twice(web: Web) -> None:
    """A socket gets an unchanged place once."""
    await experience(web)
    session, token = await web.submit()
    await eventually(web, session, token, (1, 4.0))
    async with web.follow(session.id, token) as client:
        await client.next()
        await until(lambda: web.hub.queue_news.announced(session.id))
        await take(web, session)
        await client.next("event")
    assert client.types.count("progress") <= 1


async def test_running_session_gets_no_place(web: Web) -> None:
    """Also while its job still stands in the queue."""
    await experience(web)
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next()
        claim = await web.begin(session)  # its job still stands in the queue for a moment, as with a slow worker
        await client.next("event")
        seen = len(client.frames)
        await web.submit()
        await web.services.sessions.claims.report(claim, 0.5, "rendering")
        await client.next("progress")
        assert client.frames[seen:] == [client.frames[-1]]
        assert "queue_position" not in client.frames[-1]


async def test_place_is_encoded_once_for_all_followers(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty followers of one session get the same bytes object."""
    session = await services.database.writer.insert(new_session())
    pages = [Page(session.id) for _ in range(20)]
    frames: list[bytes] = []
    monkeypatch.setattr(Page, "progress", lambda page, frame: frames.append(frame))
    async with contextlib.AsyncExitStack() as stack:
        for page in pages:
            await join(hub, services, page, stack)
        hub.queue_news.announce(session.id, Waiting(queue_position=3, eta_seconds=9.0), "2026-11-22T09:00:00.000Z")
        assert len(frames) == 20
        assert all(frame is frames[0] for frame in frames)
        assert json.loads(frames[0])["queue_position"] == 3


# -- forgotten -------------------------------------------------------------------------


class Leaver(Page):
    """A follower that leaves at its next event, as one does that is too slow for it."""

    def __init__(self, session_id: str, hub: Hub) -> None:
        super().__init__(session_id)
        self._hub = hub

    def event(self, frame: bytes) -> None:
        self._hub.leave(self, transport="test")


async def requeued(services: Services) -> tuple[Session, Moved]:
    """Return a session that runs, and how it was requeued."""
    session = await services.database.writer.insert(new_session())
    two = await move(services, session, Event.PROCESSING)
    return two.session, await move(services, two.session, Event.REQUEUED)


async def test_session_does_not_wait_without_followers_after_a_read(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last follower leaves while what was missed is read."""
    running, _ = await requeued(services)
    page = Page(running.id)
    read, gate, reading = services.database.reader.with_events, asyncio.Event(), asyncio.Event()

    async def gated(*args: Any) -> Any:
        reading.set()
        await gate.wait()
        return await read(*args)

    monkeypatch.setattr(services.database.reader, "with_events", gated)
    async with hub.following(page, transport="test"):
        hub.release(page, running)
        hub.recovery.catch_up(running.id)
        await reading.wait()
    gate.set()
    await until(lambda: not hub.recovery._catching_up)
    assert repr(hub.queue_news) == "<QueueNews waiting=0>"


async def test_session_does_not_wait_without_followers_after_a_delivery(hub: Hub, services: Services) -> None:
    """The last follower is dropped by the event that says the session waits."""
    running, moved = await requeued(services)
    page = Leaver(running.id, hub)
    hub.join(page, transport="test")
    hub.release(page, running)
    hub.receive(hub.registry.channel(running.id), message(services, moved.event))
    assert not hub.registry.follows(running.id)
    assert repr(hub.queue_news) == "<QueueNews waiting=0>"


async def test_running_session_does_not_wait_when_it_was_read_before(hub: Hub, services: Services) -> None:
    """A worker begins between a client's read and its snapshot."""
    session = await services.database.writer.insert(new_session())
    page = Page(session.id)
    async with hub.following(page, transport="test"):
        moved = await move(services, session, Event.PROCESSING)
        hub.receive(hub.registry.channel(session.id), message(services, moved.event))
        page.snapshot(session.seq)
        hub.release(page, session)
        assert page.seqs == [1, 2]
        assert repr(hub.queue_news) == "<QueueNews waiting=0>"


async def test_running_session_does_not_wait_when_its_beginning_is_swept(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep has read `created`, and `processing` arrives before it is fed."""
    read, gate, reading = services.database.feed.page, asyncio.Event(), asyncio.Event()

    async def gated(cursor: Any, **options: Any) -> Any:
        page = await read(cursor, **options)
        reading.set()
        await gate.wait()
        return page

    async with contextlib.AsyncExitStack() as stack:
        session = await services.database.writer.insert(new_session())
        page = Page(session.id)
        await join(hub, services, page, stack)
        assert repr(hub.queue_news) == "<QueueNews waiting=1>"
        monkeypatch.setattr(services.database.feed, "page", gated)
        before = hub.recovery._cursor
        hub.recovery._sweep_wanted.set()
        await reading.wait()
        moved = await move(services, session, Event.PROCESSING)
        hub.receive(hub.registry.channel(session.id), message(services, moved.event))
        gate.set()
        await until(lambda: hub.recovery._cursor is not before)
        assert page.seqs == [1, 2]
        assert repr(hub.queue_news) == "<QueueNews waiting=0>"


# -- full ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def half_an_upload(web: Web) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Send the head of a 5 MB upload, and never its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(
        b"POST /api/tryon/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    try:
        yield reader, writer
    finally:
        writer.close()


async def test_full_queue_refuses_before_the_body(start_web: StartWeb) -> None:
    """The refusal comes after the head of the upload."""
    web = await start_web(queue_limit=2)
    for _ in range(2):
        await web.submit()
    async with half_an_upload(web) as (reader, _), asyncio.timeout(5):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].split("\r\n")[0])
        problem = json.loads(await reader.readexactly(length))
    assert head.startswith("http/1.1 503")
    assert int(head.partition("retry-after: ")[2].split("\r\n")[0]) > 0
    assert (problem["code"], problem["retryable"]) == ("queue_full", True)


async def test_queue_admits_up_to_its_limit(start_web: StartWeb, photos: Path) -> None:
    """The last free place is given, and again when a worker has taken a session."""
    web = await start_web(queue_limit=2)
    image = (photos / "photo.webp").read_bytes()
    answers = [await web.client.post(SESSIONS, files={"image": image}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 503]
    session = await web.database.reader.get(answers[0].json()["session_id"])
    assert session is not None
    await take(web, session)
    assert (await web.client.post(SESSIONS, files={"image": image})).status_code == 201


async def test_retry_is_refused_when_the_queue_is_full(start_web: StartWeb) -> None:
    """A retry counts against the limit like an upload."""
    web = await start_web(queue_limit=1)
    session, token = await web.submit()
    await web.services.sessions.claims.fail(await take(web, session), "mock_failure")
    await web.submit()
    answer = await web.client.post(f"{SESSIONS}/{session.id}/retry", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")


async def test_queue_limit_holds_without_redis(start_web: StartWeb, start_valkey: StartValkey, photos: Path) -> None:
    """The database counts the waiting sessions while Redis is unavailable."""
    own = start_valkey()
    web = await start_web(queue_limit=2, redis_url=own.url)
    await web.submit()
    own.kill()
    answer = await web.client.post(SESSIONS, files={"image": (photos / "photo.webp").read_bytes()})
    assert (answer.status_code, answer.json()["queue_position"]) == (201, None)
    answer = await web.client.post(SESSIONS, files={"image": (photos / "photo.webp").read_bytes()})
    assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")


async def test_session_with_two_jobs_takes_one_place(start_web: StartWeb, photos: Path) -> None:
    """A second job of the same session does not fill the queue."""
    web = await start_web(queue_limit=2)
    session, _ = await web.submit()
    late = int(session.created_at.timestamp() * 1000) + 1
    await web.services.queue.enqueue(session.id, 0, 2, score_ms=late)
    assert await web.services.queue.order(10) == [session.id]
    answer = await web.client.post(SESSIONS, files={"image": (photos / "photo.webp").read_bytes()})
    assert answer.status_code == 201
