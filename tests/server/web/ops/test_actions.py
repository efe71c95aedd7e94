"""What operators do to sessions, and the line that each action leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from server.config.settings import Config
from server.domain import operator
from server.domain.tokens import token_hash
from testkit.running import StartWeb, Web
from testkit.uploads import assert_problem
from tests.server.web.ops.conftest import ADA, BEN, Look, bearer
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Status

UNKNOWN = "0190a000-0000-7000-8000-000000000000"


@pytest.fixture
async def web(database_url: str, start_web: StartWeb) -> Web:
    """Serve operators over each kind of database."""
    return await start_web(ops_tokens=(ADA, BEN), lease_seconds=60)


async def act(web: Web, action: str, session_id: str, token: str = ADA) -> httpx.Response:
    return await web.client.post(f"{operator.API}/sessions/{session_id}/{action}", headers=bearer(token))


async def actions(web: Web) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await web.client.get(operator.OVERVIEW, headers=bearer())).json()["actions"]
    return found


async def failed(web: Web) -> tuple[str, str]:
    """Make a failed session; return its id and its owner's token."""
    session, token = await web.submit()
    claim = await web.begin(session)
    assert await web.services.sessions.claims.fail(claim, "processor_error", retryable=False, message="It failed.")
    return session.id, token


async def test_failed_session_is_retried_for_its_owner(web: Web) -> None:
    """The new session is the owner's own, over a copy of the photo; once only."""
    session_id, token = await failed(web)
    answer = await act(web, "redrive", session_id)
    assert answer.status_code == 201, answer.text
    new_id = answer.json()["new_session_id"]
    mine = await web.client.get(f"/api/tryon/sessions/{new_id}", headers=bearer(token))
    assert mine.json()["retry_of"] == session_id
    new = await web.database.reader.get(new_id)
    assert new is not None
    assert new.owner == token_hash(token)
    again = await act(web, "redrive", session_id, BEN)
    assert (again.status_code, again.json()["new_session_id"]) == (200, new_id)
    assert [each["outcome"] for each in await actions(web)] == ["retried before", "retried"]


async def test_waiting_session_is_enqueued_again(web: Web) -> None:
    """Also when Redis has lost its job."""
    session, _ = await web.submit()
    await web.services.queue.forget(session.id, session.attempt, session.enqueues)
    assert await web.services.queue.order(10) == []
    assert (await act(web, "redrive", session.id)).json()["outcome"] == "enqueued"
    assert await web.services.queue.order(10) == [session.id]
    assert (await act(web, "redrive", session.id)).json()["outcome"] == "enqueued"
    assert await web.services.queue.depth() == 1


async def test_running_session_is_taken_from_its_worker(web: Web) -> None:
    """It waits again, the attempt does not count, and its worker changes nothing."""
    session, _ = await web.submit()
    claim = await web.begin(session)
    answer = await act(web, "redrive", session.id)
    assert answer.json()["outcome"] == "requeued"
    row = answer.json()["session"]
    assert (row["status"], row["attempt"], row["burnt"], row["worker"]) == ("created", 1, 0, None)
    assert row["steps"][-1]["reason"] == operator.REASON
    assert not await web.services.sessions.claims.fail(claim, "processor_error", retryable=False, message="Too late.")
    assert await web.services.queue.order(10) == [session.id]


async def test_usage_of_redriven_attempt_counts(web: Web) -> None:
    """The event has the usage of the last checkpoint: its worker is not asked."""
    session, _ = await web.submit()
    claims, claim = web.services.sessions.claims, await web.begin(session)
    claims.note_usage(claim, {"credits": 2})
    assert await claims.checkpoint(claim, {"id": 1})
    assert (await act(web, "redrive", session.id)).json()["outcome"] == "requeued"
    found = await web.database.reader.with_events(session.id, 0)
    assert found is not None
    assert found.events[-1].data == {"reason": operator.REASON, "usage": {"credits": 2}}


async def test_completed_session_is_not_driven_again(web: Web) -> None:
    """Final is final; the refusal leaves its line, too."""
    session, _ = await web.submit()
    await web.complete(await web.begin(session))
    assert_problem(await act(web, "redrive", session.id), 409, "not_finished")
    assert [each["outcome"] for each in await actions(web)] == ["not_finished"]


async def test_cancel_follows_the_state(web: Web) -> None:
    """A waiting one at once, a running one by its worker, an ended one not at all."""
    waiting, _ = await web.submit()
    answer = await act(web, "cancel", waiting.id)
    assert (answer.status_code, answer.json()["outcome"]) == (200, "cancelled")
    events = await web.database.reader.with_events(waiting.id, 1)
    assert events is not None
    assert events.events[-1].actor == f"operator:{hashlib.sha256(ADA.encode()).hexdigest()[:8]}"
    running, _ = await web.submit()
    await web.begin(running)
    answer = await act(web, "cancel", running.id)
    assert (answer.status_code, answer.json()["outcome"]) == (202, "cancelling")
    assert answer.json()["session"]["cancel_requested"]
    assert (await act(web, "cancel", waiting.id)).json()["outcome"] == "unchanged"


async def test_erasure_is_the_owners(web: Web, config: Callable[..., Config]) -> None:
    """Files, rows and retries are gone, and the client learns of it."""
    session_id, token = await failed(web)
    new_id = (await act(web, "redrive", session_id)).json()["new_session_id"]
    async with web.follow(new_id, token) as client:
        await client.next("snapshot")
        answer = await act(web, "erase", session_id)
        assert answer.status_code == 200
        assert answer.json()["session"] is None
        assert await client.rest() == 4510
    for each in (session_id, new_id):
        assert (await web.client.get(f"/api/tryon/sessions/{each}", headers=bearer(token))).status_code == 404
    assert [path for path in config().uploads_dir.rglob("*") if path.is_file()] == []
    assert_problem(await act(web, "erase", session_id), 404, "not_found")


async def test_action_leads_to_no_erased_session(web: Web) -> None:
    """While it lives its id is shown; afterwards nothing stored names it."""
    session_id, _ = await failed(web)
    await act(web, "cancel", session_id)
    [before] = await actions(web)
    assert before["session_id"] == session_id
    await act(web, "erase", session_id, BEN)
    lines = await actions(web)
    names = [hashlib.sha256(token.encode()).hexdigest()[:8] for token in (BEN, ADA)]
    assert [(each["operator"], each["action"], each["outcome"]) for each in lines] == [
        (names[0], "erase", "erased"),
        (names[1], "cancel", "unchanged"),
    ]
    assert {each["session_id"] for each in lines} == {None}
    stored = await web.database.operator_actions.newest(10)
    assert session_id not in repr(stored)
    assert session_id.replace("-", "") not in repr(stored)


async def test_action_is_logged_with_operator_and_request(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    """An operator greps for it."""
    session, _ = await web.submit()
    caplog.set_level("INFO", "tryon.operator")
    answer = await act(web, "cancel", session.id)
    name = hashlib.sha256(ADA.encode()).hexdigest()[:8]
    assert f"Operator {name}: cancel of session {session.id}: cancelled" in caplog.messages
    [line] = await actions(web)
    assert line["request_id"] == answer.headers["X-Request-ID"]


async def test_nothing_is_done_that_cannot_be_noted(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its line an action does not begin."""
    session, _ = await web.submit()

    async def unavailable(*args: object, **more: object) -> int:
        raise Unavailable

    monkeypatch.setattr(web.database.operator_actions, "add", unavailable)
    for action in ("redrive", "cancel", "erase"):
        assert_problem(await act(web, action, session.id), 503, "unavailable")
    found = await web.database.reader.get(session.id)
    assert found is not None
    assert found.status is Status.CREATED


@pytest.mark.parametrize("session_id", [UNKNOWN, "no-id", "..%2f..%2fx"])
async def test_unknown_sessions_are_not_found(web: Web, session_id: str) -> None:
    """They leave no line."""
    for action in ("redrive", "cancel", "erase"):
        assert (await act(web, action, session_id)).status_code == 404
    answer = await web.client.get(f"{operator.API}/sessions/{session_id}", headers=bearer())
    assert answer.status_code == 404
    assert await actions(web) == []


async def test_operators_see_each_others_actions(web: Web, start_web: StartWeb, look: Look) -> None:
    """They are pushed to the pages of all web processes, within a second as a rule."""
    other = await start_web(ops_tokens=(ADA, BEN))
    session, _ = await web.submit()
    async with look(web) as ada, look(other, BEN) as ben:
        await ada.next("overview")
        await ben.next("overview")
        await act(web, "cancel", session.id)
        for screen in (ada, ben):
            await screen.row(session.id, status="cancelled")
            while True:
                frame = await screen.next("actions")
                if frame["actions"][0]["outcome"] == "cancelled":
                    break
            assert frame["actions"][0]["session_id"] == session.id
