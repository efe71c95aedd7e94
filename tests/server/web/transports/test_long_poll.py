"""Plain reads and long polls; a long poll is one more follower of the hub."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from server.domain.session import Session
from server.services import Services
from server.sessions.claims import Claim
from server.web.transports import long_poll as polls
from testkit.running import StartWeb, Web, until


@dataclass
class Poller:
    """The owner of one session."""

    web: Web
    session: Session
    token: str
    waiting: list[asyncio.Task[httpx.Response]] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/api/tryon/sessions/{self.session.id}"

    async def get(self, etag: str | None = None, **query: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | ({"If-None-Match": etag} if etag else {})
        return await self.web.client.get(self.path, params=query, headers=headers)

    async def wait(self, etag: str | None = None, **query: Any) -> asyncio.Task[httpx.Response]:
        """Start a long poll and return its task once it waits for news."""
        before = self.web.hub.followers_of(self.session.id)
        task = asyncio.create_task(self.get(etag, **{"wait": 30} | query))
        await until(lambda: task.done() or self.web.hub.followers_of(self.session.id) > before)
        await until(lambda: task.done() or all(f.seq is not None for f in self.web.hub.registry.all()))
        assert not task.done(), task.result().text
        return task


@pytest.fixture
async def poller(web: Web) -> Poller:
    return Poller(web, *await web.submit())


# -- one look --------------------------------------------------------------------------


async def test_read_without_since_has_no_missed(poller: Poller) -> None:
    """``missed`` is added by ``since`` only."""
    assert "missed" not in (await poller.get()).json()


async def test_since_adds_missed_events(poller: Poller) -> None:
    """``missed`` holds the events after ``since``, in order."""
    await poller.web.complete(await poller.web.begin(poller.session))
    missed = (await poller.get(since=1)).json()["missed"]
    assert [(e["type"], e["seq"], e["event"], e["from"], e["status"]) for e in missed] == [
        ("event", 2, "processing", "created", "processing"),
        ("event", 3, "completed", "processing", "completed"),
    ]


async def test_retry_after_ends_with_the_session(poller: Poller) -> None:
    """An ended session needs no poll hint."""
    assert (await poller.get()).headers["retry-after"] == "2"
    claim = await poller.web.begin(poller.session)
    assert (await poller.get()).headers["retry-after"] == "1"
    await poller.web.complete(claim)
    assert "retry-after" not in (await poller.get()).headers


async def test_etag_changes_with_the_session(poller: Poller) -> None:
    """An unchanged session is a 304."""
    etag = (await poller.get()).headers["etag"]
    assert etag.startswith('W/"')
    same = await poller.get(etag)
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    claim = await poller.web.begin(poller.session)
    running = await poller.get(etag)
    assert running.status_code == 200
    await report_until_shown(poller, claim, 0.5)
    assert (await poller.get(running.headers["etag"])).status_code == 200


async def report_until_shown(poller: Poller, claim: Claim, progress: float) -> None:
    """Report again and again, as a processor does: a slow Redis may lose one."""
    async with asyncio.timeout(20):
        while (await poller.get()).json()["progress"] != progress:
            await poller.web.services.sessions.claims.report(claim, progress, "rendering")


@pytest.mark.parametrize("header", ["*", '"other", {}', "{}", "{strong}"])
async def test_if_none_match_accepts_every_form(poller: Poller, header: str) -> None:
    """Strong, weak, listed and ``*``."""
    etag = (await poller.get()).headers["etag"]
    given = header.format(etag, strong=etag.removeprefix("W/"))
    assert (await poller.get(given)).status_code == 304


@pytest.mark.parametrize("wait", ["soon", "-1", "nan", "inf", "1_0", "\u0669", ""])
async def test_invalid_wait_is_refused(poller: Poller, wait: str) -> None:
    """``wait`` must be a number that is not negative."""
    answer = await poller.get(wait=wait)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


# -- waiting ---------------------------------------------------------------------------


async def test_transition_answers_a_waiting_poll(poller: Poller) -> None:
    """The answer has the new state and the missed events."""
    task = await poller.wait(since=1)
    await poller.web.begin(poller.session)
    answer = (await task).json()
    assert (answer["status"], answer["seq"], [e["seq"] for e in answer["missed"]]) == ("processing", 2, [2])


async def test_poll_is_answered_at_once_when_behind(poller: Poller) -> None:
    """A poll whose cursor is behind does not wait."""
    await poller.web.begin(poller.session)
    assert (await poller.get(since=1, wait=30)).json()["seq"] == 2


async def test_poll_without_news_is_304(poller: Poller) -> None:
    """The wait ends with an empty answer."""
    answer = await poller.get(since=1, wait=0.05)
    assert (answer.status_code, answer.content) == (304, b"")
    assert {"etag", "retry-after"} <= set(answer.headers)


async def test_ended_session_is_answered_at_once(poller: Poller) -> None:
    """An ended session never makes a poll wait."""
    await poller.web.complete(await poller.web.begin(poller.session))
    answer = await poller.get(since=3, wait=30)
    assert (answer.status_code, answer.json()["terminal"], answer.json()["missed"]) == (200, True, [])


@pytest.mark.usefixtures("places")
async def test_progress_does_not_answer_since(poller: Poller) -> None:
    """A poll with ``since`` waits for transitions only."""
    claim = await poller.web.begin(poller.session)
    task = await poller.wait(since=2)
    await report_until_shown(poller, claim, 0.5)
    assert not task.done()
    await poller.web.complete(claim)
    assert (await task).json()["seq"] == 3


async def test_progress_answers_an_etag(poller: Poller) -> None:
    """A poll with If-None-Match is answered by progress too."""
    claim = await poller.web.begin(poller.session)
    task = await poller.wait((await poller.get()).headers["etag"], since=2)
    async with asyncio.timeout(20):
        while not task.done():  # a slow Redis may lose one
            await poller.web.services.sessions.claims.report(claim, 0.5, "rendering")
            await asyncio.wait({task}, timeout=0.5)
    answer = (await task).json()
    assert (answer["seq"], answer["progress"], answer["stage"], answer["missed"]) == (2, 0.5, "rendering", [])


@pytest.mark.usefixtures("places")
async def test_unchanged_place_does_not_answer_a_poll(poller: Poller) -> None:
    """The place is announced after joining; a poll that has shown it waits on."""
    async with asyncio.timeout(5):
        while (await poller.get()).json()["queue_position"] is None:
            pass
    task = await poller.wait((await poller.get()).headers["etag"], since=1)
    await until(lambda: poller.web.hub.queue_news.announced(poller.session.id))  # announced to the follower
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(task), 0.1)
    assert not task.done()
    task.cancel()


async def test_wait_is_clamped(poller: Poller, monkeypatch: pytest.MonkeyPatch) -> None:
    """No poll waits longer than MAX_WAIT_SECONDS."""
    monkeypatch.setattr(polls, "MAX_WAIT_SECONDS", 0.05)
    for wait in ("1e9", "9" * 400):
        async with asyncio.timeout(5):
            assert (await poller.get(since=1, wait=wait)).status_code == 304
    monkeypatch.undo()
    assert polls.MAX_WAIT_SECONDS == 60


async def test_invalid_since_counts_as_zero(poller: Poller) -> None:
    """Everything is missed then."""
    for since in ("-1", "x", "1.5", "9" * 30):
        answer = await poller.get(since=since, wait=30)
        assert [e["seq"] for e in answer.json()["missed"]] == [1]


async def test_erasure_answers_a_waiting_poll(poller: Poller) -> None:
    """The answer is a 404."""
    task = await poller.wait(since=1)
    await poller.web.services.sessions.erasure.delete(poller.session.id, poller.session.owner)
    answer = await task
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_drain_answers_a_waiting_poll(poller: Poller) -> None:
    """A stopping server does not keep a poll waiting."""
    task = await poller.wait(since=1)
    poller.web.hub.drain()
    assert (await task).status_code == 304
    assert (await poller.get(since=1, wait=30)).status_code == 200  # a plain read


async def test_waiting_poll_does_not_query_the_database(poller: Poller) -> None:
    """One read before the wait and one after it."""
    await until(lambda: poller.web.hub.recovery._cursor is not None)  # the first sweep checks every session
    with statements_about(poller.web.services, poller.session) as asked:
        task = await poller.wait(since=1)
        while_joining = len(asked)
        assert while_joining == 1, asked
        swept = poller.web.hub.recovery._cursor
        poller.web.hub.recovery._sweep_wanted.set()  # a sweep that finds nothing reads no session
        await until(lambda: poller.web.hub.recovery._cursor is not swept)
        assert len(asked) == while_joining
        await poller.web.services.bus.publish(poller.session.id, b"t0000000002000000 " + CANCELLED)
        await until(lambda: len(asked) > while_joining)
        assert len(asked) == while_joining + 1  # one read of the news
    task.cancel()


CANCELLED = b'{"type":"event","status":"cancelled","at":"2026-11-22T09:00:00.000Z"}'


@contextlib.contextmanager
def statements_about(services: Services, session: Session) -> Iterator[list[str]]:
    """Yield the list of statements that name this session, as they are sent."""
    seen: list[str] = []
    ids = (session.id, session.id.replace("-", ""))

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        cleanup = (
            statement.partition("FROM")[0].strip() == "SELECT tryon_sessions.id"
        )  # the cleanup, which looks for traces of erased sessions
        if not cleanup and any(name in str(parameters) for name in ids):
            seen.append(statement)

    engine = services.database.connections.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def test_many_polls_are_answered_together(poller: Poller) -> None:
    """One transition answers every poll of the session."""
    tasks = [await poller.wait(since=1) for _ in range(10)]
    await poller.web.begin(poller.session)
    assert {(await task).json()["seq"] for task in tasks} == {2}
    await until(lambda: poller.web.hub.followers == 0)


async def test_waiting_polls_count_as_connections(start_web: StartWeb) -> None:
    """The limit of a session holds for polls."""
    web = await start_web(sockets_per_session=2)
    poller = Poller(web, *await web.submit())
    tasks = [await poller.wait(since=1) for _ in range(2)]
    refused = await poller.get(since=1, wait=30)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.json()["limit"] == "sockets_per_session"
    assert int(refused.headers["retry-after"]) > 0
    assert (await poller.get(since=1)).status_code == 200  # a plain read is not counted
    await web.begin(poller.session)
    await asyncio.gather(*tasks)


async def test_disconnected_poll_is_forgotten_at_once(start_web: StartWeb) -> None:
    """Its connection is not counted until the wait would be over."""
    web = await start_web(sockets_per_session=1)
    poller = Poller(web, *await web.submit())
    for _ in range(3):
        task = await poller.wait(since=1)
        task.cancel()
        await until(lambda: web.hub.followers == 0)
