"""Retries of a failed or cancelled session."""

from __future__ import annotations

import asyncio

import pytest

from server.adapters.database.changes import NewSession
from server.config.parsing import UploadRate
from server.domain.session import Session
from testkit.running import Web
from tests.server.web.api.calls import do, failed, files_of, listed
from tests.server.web.conftest import StartWeb
from tryon.protocol.paths import SESSIONS


async def test_a_retry_is_a_new_session_over_its_own_copy_of_the_photos(web: Web) -> None:
    session, token = await failed(web)
    old = (await do(web, "get", session.id, token)).json()
    answer = await do(web, "retry", session.id, token)
    new = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, f"{SESSIONS}/{new['session_id']}")
    assert "idempotent-replay" not in answer.headers
    assert new["session_id"] != session.id
    assert (new["status"], new["seq"], new["retry_of"]) == ("created", 1, session.id)
    assert new["expires_at"] == old["expires_at"]
    assert "client_token" not in new
    for role in ("input", "garment"):
        assert new["session_id"] in new["links"][role]
        copy = await web.client.get(new["links"][role])
        assert copy.content == (await web.client.get(old["links"][role])).content
    row = await web.database.reading.get(new["session_id"])
    assert row is not None
    assert row.params == {"size": "M"}
    claim = await web.begin(row)
    await web.complete(claim)
    assert (await do(web, "get", session.id, token)).json()["status"] == "failed"  # final for ever


async def test_a_cancelled_session_can_be_tried_again(web: Web) -> None:
    session, token = await web.submit()
    await do(web, "cancel", session.id, token)
    assert (await do(web, "retry", session.id, token)).json()["retry_of"] == session.id


async def test_repeating_a_retry_answers_with_the_same_session_as_it_is_now(web: Web) -> None:
    session, token = await failed(web)
    first = (await do(web, "retry", session.id, token)).json()
    row = await web.database.reading.get(first["session_id"])
    assert row is not None
    await web.begin(row)
    answer = await do(web, "retry", session.id, token)
    assert (answer.status_code, answer.headers["idempotent-replay"]) == (201, "true")
    assert (answer.json()["session_id"], answer.json()["status"]) == (first["session_id"], "processing")


async def test_a_retry_that_failed_is_tried_again_itself(web: Web) -> None:
    session, token = await failed(web)
    second = (await do(web, "retry", session.id, token)).json()["session_id"]
    row = await web.database.reading.get(second)
    assert row is not None
    await web.services.sessions.claims.fail(await web.begin(row), "mock_failure")
    third = (await do(web, "retry", second, token)).json()
    assert third["retry_of"] == second
    assert third["session_id"] not in (second, session.id)


@pytest.mark.parametrize("status", ["created", "processing", "completed"])
async def test_only_failed_or_cancelled_sessions_can_be_tried_again(web: Web, status: str) -> None:
    session, token = await web.submit()
    if status != "created":
        claim = await web.begin(session)
        if status == "completed":
            await web.complete(claim)
    answer = await do(web, "retry", session.id, token)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_finished")


async def test_parallel_retries_make_one_session(start_web: StartWeb, database_url: str) -> None:
    here, there = await start_web(), await start_web()
    session, token = await failed(here)
    before = len(files_of(here))
    answers = await asyncio.gather(*(do(web, "retry", session.id, token) for web in (here, there) * 5))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["session_id"] for answer in answers}) == 1
    assert sum("idempotent-replay" not in answer.headers for answer in answers) == 1
    assert len(files_of(here)) == before + 2  # the losers' copies are gone


async def test_a_retry_counts_against_the_rate_limit(start_web: StartWeb) -> None:
    web = await start_web(upload_rate=UploadRate(2, 60))
    session, token = await failed(web)
    first = await do(web, "retry", session.id, token)
    assert first.headers["ratelimit"].startswith('"uploads";r=1;')
    assert (await do(web, "retry", session.id, token)).status_code == 201
    answer = await do(web, "retry", session.id, token)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert int(answer.headers["retry-after"]) > 0


async def test_a_retry_that_a_delete_overtakes_is_a_404_and_leaves_nothing(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copied photo is stored already when the original is erased; the row comes
    after.
    """
    session, token = await failed(web)
    insert = web.database.writing.insert

    async def overtaken(new: NewSession) -> Session:
        assert len(files_of(web)) == 4
        assert (await do(web, "delete", session.id, token)).status_code == 200
        return await insert(new)

    monkeypatch.setattr(web.database.writing, "insert", overtaken)
    assert (await do(web, "retry", session.id, token)).status_code == 404
    assert files_of(web) == []
    assert (await listed(web, token))["sessions"] == []


async def test_a_retry_and_a_delete_at_once_leave_nothing(start_web: StartWeb, database_url: str) -> None:
    here, there = await start_web(), await start_web()
    for _ in range(8):
        session, token = await failed(here)
        _, deleted = await asyncio.gather(do(here, "retry", session.id, token), do(there, "delete", session.id, token))
        assert deleted.status_code == 200
        assert files_of(here) == []
        assert (await listed(here, token))["sessions"] == []
