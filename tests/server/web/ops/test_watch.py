"""The stream of the operator's page: everything at first, then what changes."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest

from server.domain import operator
from server.web.ops import watch
from server.web.ops.viewers import MAX_UNSENT, Viewer
from testkit.running import StartWeb, Web, until
from tests.server.web.ops.conftest import ADA, BEN, Look, bearer
from tryon.protocol.errors import Unavailable


@pytest.fixture
async def web(database_url: str, start_web: StartWeb) -> Web:
    """Serve operators over each kind of database."""
    return await start_web(ops_tokens=(ADA, BEN), lease_seconds=60)


async def overview(web: Web) -> dict[str, Any]:
    found: dict[str, Any] = (await web.client.get(operator.OVERVIEW, headers=bearer())).json()
    return found


async def test_transitions_are_pushed_with_their_timeline(web: Web, look: Look) -> None:
    """A session appears, runs, ends and goes, each without a request."""
    async with look(web) as screen:
        assert (await screen.next("overview"))["sessions"] == []
        session, token = await web.submit()
        row = await screen.row(session.id, status="created")
        assert [step["event"] for step in row["steps"]] == ["created"]
        claim = await web.begin(session, worker="host:1:ab")
        row = await screen.row(session.id, status="processing")
        assert row["worker"] == "host:1:ab"
        assert row["lease_expires_at"]
        await web.complete(claim)
        row = await screen.row(session.id, status="completed")
        assert [step["event"] for step in row["steps"]] == ["created", "processing", "completed"]
        await web.client.delete(f"/api/tryon/sessions/{session.id}", headers=bearer(token))
        while (frame := await screen.next("sessions"))["gone"] != [session.id]:
            pass
        assert frame["changed"] == []


async def test_transitions_of_other_processes_are_pushed_without_redis(
    web: Web, start_web: StartWeb, look: Look
) -> None:
    """The feed of the database carries them."""
    other = await start_web(ops_tokens=(ADA,), redis_url="redis://127.0.0.1:1/0")
    async with look(other) as screen:
        frame = await screen.next("overview")
        assert frame["state"]["queue"]["jobs"] is None
        assert "Redis is unavailable" in frame["state"]["troubles"][0]
        session, _ = await web.submit()
        await screen.row(session.id, status="created")


async def test_nothing_is_shown_that_leads_to_a_person(web: Web) -> None:
    """No owner, no file, no link, no params, no address."""
    session, token = await web.submit()
    await web.complete(await web.begin(session))
    text = (await web.client.get(operator.OVERVIEW, headers=bearer())).text
    found = await web.database.reader.get(session.id)
    assert found is not None
    for secret in (token, found.owner[:8], *found.file_keys, "signature=", "ticket=", "/files/", "127.0.0.1", "sha256"):
        assert secret not in text, secret


async def test_state_counts_queue_workers_and_sockets(web: Web, start_web: StartWeb) -> None:
    """Sockets of all web processes, claims by worker, and why sessions failed."""
    other = await start_web(ops_tokens=(ADA,))
    first, token = await web.submit()
    second, _ = await web.submit()
    third, _ = await web.submit()
    await web.services.queue.note_worker("host:1:ab")
    await web.begin(first, worker="host:1:ab")
    claim = await web.begin(second, worker="host:1:ab")
    assert await web.services.sessions.claims.fail(claim, "timeout", retryable=False)
    async with other.follow(first.id, token) as client:
        await client.next("snapshot")
        async with asyncio.timeout(20):
            while True:
                state = (await overview(web))["state"]
                if len(state["webs"]) == 2 and sum(each["sockets"].get("ws", 0) for each in state["webs"]):
                    break
    assert (state["queue"]["waiting"], state["queue"]["running"]) == (1, 1)
    assert state["queue"]["by_processor"] == {"mock": 1}
    assert state["places"][third.id]["position"] >= 1
    [worker] = [each for each in state["workers"] if each["worker"] == "host:1:ab"]
    assert worker["jobs"] == 1
    assert worker["seen_seconds"] is not None
    assert {each["name"] for each in state["chores"]} >= {"reconcile"}


async def test_failures_and_durations_are_counted(web: Web) -> None:
    """By code, and by processor, from what ended in the last hour."""
    for code in ("timeout", "timeout", "internal"):
        session, _ = await web.submit()
        claim = await web.begin(session)
        assert await web.services.sessions.claims.fail(claim, code, retryable=False)
    session, _ = await web.submit()
    await web.complete(await web.begin(session))
    state = (await overview(web))["state"]
    assert state["failures"] == [{"code": "timeout", "count": 2}, {"code": "internal", "count": 1}]
    [processor] = state["processors"]
    assert (processor["completed"], processor["failed"]) == (1, 3)
    assert 0 <= processor["run_p50"] <= processor["run_p95"]
    assert not state["sampled"]


async def test_list_is_bounded_and_keeps_what_has_not_ended(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old session that runs is listed before newer ones that have ended."""
    monkeypatch.setattr("server.web.ops.board.MAX_SESSIONS", 3)
    old, _ = await web.submit()
    ended = []
    for _ in range(4):
        session, _ = await web.submit()
        await web.complete(await web.begin(session))
        ended.append(session.id)
    listed = [row["session_id"] for row in (await overview(web))["sessions"]]
    assert listed == [ended[3], ended[2], old.id]
    found = await web.client.get(f"{operator.API}/sessions/{ended[0]}", headers=bearer())
    assert found.json()["session_id"] == ended[0]


async def test_nothing_is_read_while_no_page_is_open(web: Web, look: Look) -> None:
    """The last page that closes ends the task that reads."""

    def watching() -> bool:
        return any(task.get_name() == "operators" for task in asyncio.all_tasks())

    assert not watching()
    async with look(web) as first:
        await first.next("overview")
        async with look(web, BEN) as second:
            await second.next("overview")
        assert watching()
    await until(lambda: not watching())


async def test_unreadable_database_is_said_and_recovers(web: Web, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page stays open, with what was seen last."""
    async with look(web) as screen:
        await screen.next("overview")
        with monkeypatch.context() as broken:

            async def unavailable(*_: object) -> Any:
                raise Unavailable

            broken.setattr("server.adapters.database.feed.Feed.cursor", unavailable)
            while "database is unavailable" not in " ".join((await screen.next("state"))["state"]["troubles"]):
                pass
        while (await screen.next("state"))["state"]["troubles"]:
            pass


async def test_pages_are_limited(web: Web, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is asked to come later."""
    monkeypatch.setattr(watch, "MAX_VIEWERS", 1)
    async with look(web) as screen:
        await screen.next("overview")
        answer = await web.client.get(operator.EVENTS, headers=bearer())
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]


async def test_stopping_server_says_goodbye_to_pages(start_web: StartWeb, look: Look) -> None:
    """An open page does not keep the server from stopping."""
    web = await start_web(ops_tokens=(ADA,))
    async with look(web) as screen:
        await screen.next("overview")
        web.hub.drain()
        assert (await screen.next("bye"))["reason"] == "draining"


async def test_stream_ends_with_the_sign_in(web: Web) -> None:
    """A page whose twelve hours are over is asked to sign in again."""
    from server.web.ops.viewers import ViewerResponse

    viewer, left = Viewer(), []
    response = ViewerResponse(viewer, seconds=0.0, left=lambda: left.append(True))
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.Event().wait()

    await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    assert re.search(rb'"bye","reason":"signed_out"', b"".join(sent))
    assert left == [True]


async def test_page_that_does_not_read_is_dropped() -> None:
    """Its frames are bounded, and of states only the newest waits."""
    viewer = Viewer()
    for number in range(5):
        viewer.put_state(b"state %d" % number)
    viewer.put(b"row")
    assert [await viewer.next(), await viewer.next()] == [b"row", b"state 4"]
    for _ in range(MAX_UNSENT + 1):
        viewer.put(b"row")
    assert viewer.bye == "too_slow"
    assert await viewer.next() is None


async def test_head_of_the_stream_does_not_hang(web: Web) -> None:
    """Headers, and nothing to hold open."""
    answer: httpx.Response = await web.client.head(operator.EVENTS, headers=bearer())
    assert answer.status_code == 200
