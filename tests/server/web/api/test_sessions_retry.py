"""Retries of a failed or cancelled session."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from server.adapters.database.changes import NewSession
from server.config.parsing import UploadRate
from server.domain.session import Session
from server.domain.tokens import new_token
from server.sessions.roles import DEFAULT_ROLES
from testkit.running import StartWeb, Web
from testkit.uploads import picture
from tests.server.web.api.calls import bearer, do, failed, files_of, listed
from tryon.processor import Info, Role
from tryon.processor.description import describe
from tryon.protocol.paths import SESSIONS


async def test_retry_copies_photos_to_new_session(web: Web) -> None:
    """The new session keeps params and expiry and names the old one, which stays."""
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
    row = await web.database.reader.get(new["session_id"])
    assert row is not None
    assert row.params == {"size": "M"}
    claim = await web.begin(row)
    await web.complete(claim)
    assert (await do(web, "get", session.id, token)).json()["status"] == "failed"  # final for ever


@pytest.mark.parametrize(
    ("info", "code", "part"),
    [
        (Info(name="mock", roles=(Role(name="person", required=True),)), "unknown_input", "garment"),
        (Info(name="mock", roles=(*DEFAULT_ROLES.all, Role(name="mask", required=True))), "missing_image", "mask"),
        (Info(name="mock", params_schema={"properties": {"size": {"enum": ["S"]}}}), "bad_params", "params"),
    ],
)
async def test_retry_is_judged_by_the_processor_of_now(web: Web, info: Info, code: str, part: str) -> None:
    """Inputs that the processor no longer takes are refused before they wait."""
    session, token = await failed(web)
    await web.services.sessions.processors.publish("worker", describe(info))
    answer = await do(web, "retry", session.id, token)
    assert (answer.status_code, answer.json()["code"], answer.json()["part"]) == (422, code, part)


SEEDED = {"seed": {"type": "integer"}}


@pytest.mark.parametrize(
    ("schema", "params", "kept"),
    [
        ({"additionalProperties": False}, {"seed": 7}, True),
        ({"properties": SEEDED, "additionalProperties": False}, {"seed": 7}, True),
        ({}, {"seed": 7.0}, True),
        ({"properties": {"seed": {"type": "integer", "default": 42}}}, {}, True),
        ({"additionalProperties": False}, {}, False),
        ({"properties": {"seed": {"type": ["integer", "null"], "default": None}}}, {}, False),
    ],
)
async def test_retry_keeps_seed_that_was_chosen(
    web: Web, schema: dict[str, Any], params: dict[str, Any], kept: bool
) -> None:
    """The seed stays where the processor's schema forbids it, and in a second retry."""
    await web.services.sessions.processors.publish("worker", describe(Info(name="mock", params_schema=schema)))
    token = new_token()
    answer = await web.client.post(
        SESSIONS, files={"image": picture()}, data={"params": json.dumps(params)}, headers=bearer(token)
    )
    sessions = [answer.json()]
    for _ in range(2):
        await do(web, "cancel", sessions[-1]["session_id"], token)
        sessions.append((await do(web, "retry", sessions[-1]["session_id"], token)).json())
    assert len({each["seed"] for each in sessions}) == (1 if kept else 3)
    assert len({json.dumps(each["params"]) for each in sessions}) == 1
    if kept:
        assert sessions[0]["seed"] in (7, 42)


@pytest.mark.parametrize(("params", "seed"), [({}, 42), ({"seed": 7}, 7)])
async def test_retry_has_one_seed_when_the_schema_gains_one(
    web: Web, params: dict[str, Any], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default that fills the params is the session's; a chosen one fills both."""
    monkeypatch.setattr("server.sessions.processors.FRESH_SECONDS", 0.0)
    before: dict[str, Any] = {"additionalProperties": False}
    after: dict[str, Any] = {"properties": {"seed": {"type": "integer", "default": 42}}}
    token = new_token()
    await web.services.sessions.processors.publish("w", describe(Info(name="mock", params_schema=before)))
    files, data = {"image": picture()}, {"params": json.dumps(params)}
    first = (await web.client.post(SESSIONS, files=files, data=data, headers=bearer(token))).json()
    await do(web, "cancel", first["session_id"], token)
    await web.services.sessions.processors.publish("w", describe(Info(name="mock", params_schema=after)))
    again = (await do(web, "retry", first["session_id"], token)).json()
    assert (again["params"], again["seed"]) == ({"seed": seed}, seed)


async def test_retry_accepts_cancelled_session(web: Web) -> None:
    """Not only failed sessions can be retried."""
    session, token = await web.submit()
    await do(web, "cancel", session.id, token)
    assert (await do(web, "retry", session.id, token)).json()["retry_of"] == session.id


async def test_repeated_retry_returns_same_session(web: Web) -> None:
    """The answer shows the session as it is now, and is marked as a replay."""
    session, token = await failed(web)
    first = (await do(web, "retry", session.id, token)).json()
    row = await web.database.reader.get(first["session_id"])
    assert row is not None
    await web.begin(row)
    answer = await do(web, "retry", session.id, token)
    assert (answer.status_code, answer.headers["idempotent-replay"]) == (201, "true")
    assert (answer.json()["session_id"], answer.json()["status"]) == (first["session_id"], "processing")


async def test_failed_retry_is_retried_itself(web: Web) -> None:
    """The third session names the second one, not the first."""
    session, token = await failed(web)
    second = (await do(web, "retry", session.id, token)).json()["session_id"]
    row = await web.database.reader.get(second)
    assert row is not None
    await web.services.sessions.claims.fail(await web.begin(row), "mock_failure")
    third = (await do(web, "retry", second, token)).json()
    assert third["retry_of"] == second
    assert third["session_id"] not in (second, session.id)


@pytest.mark.parametrize("status", ["created", "processing", "completed"])
async def test_retry_refuses_unfinished_or_completed_session(web: Web, status: str) -> None:
    """A session that waits, runs or is completed gets 409."""
    session, token = await web.submit()
    if status != "created":
        claim = await web.begin(session)
        if status == "completed":
            await web.complete(claim)
    answer = await do(web, "retry", session.id, token)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_finished")


async def test_parallel_retries_make_one_session(start_web: StartWeb, database_url: str) -> None:
    """Two processes agree on one, and the other copies are deleted."""
    here, there = await start_web(), await start_web()
    session, token = await failed(here)
    before = len(files_of(here))
    answers = await asyncio.gather(*(do(web, "retry", session.id, token) for web in (here, there) * 5))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["session_id"] for answer in answers}) == 1
    assert sum("idempotent-replay" not in answer.headers for answer in answers) == 1
    assert len(files_of(here)) == before + 2  # the losers' copies are gone


@pytest.mark.usefixtures("patient_limits")
async def test_retry_counts_against_rate_limit(start_web: StartWeb) -> None:
    """A retry is an upload to the limiter, and so is its repetition."""
    web = await start_web(upload_rate=UploadRate(2, 60))
    session, token = await failed(web)
    first = await do(web, "retry", session.id, token)
    assert first.headers["ratelimit"].startswith('"uploads";r=1;')
    assert (await do(web, "retry", session.id, token)).status_code == 201
    answer = await do(web, "retry", session.id, token)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert int(answer.headers["retry-after"]) > 0


async def test_retry_is_404_when_delete_overtakes(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original is deleted after its photo was copied, before the row is written."""
    session, token = await failed(web)
    insert = web.database.writer.insert

    async def overtaken(new: NewSession) -> Session:
        assert len(files_of(web)) == 4
        assert (await do(web, "delete", session.id, token)).status_code == 200
        return await insert(new)

    monkeypatch.setattr(web.database.writer, "insert", overtaken)
    assert (await do(web, "retry", session.id, token)).status_code == 404
    assert files_of(web) == []
    assert (await listed(web, token))["sessions"] == []


async def test_simultaneous_retry_and_delete_leave_nothing(start_web: StartWeb, database_url: str) -> None:
    """Whichever wins, no file and no session of the owner is left."""
    here, there = await start_web(), await start_web()
    for _ in range(8):
        session, token = await failed(here)
        _, deleted = await asyncio.gather(do(here, "retry", session.id, token), do(there, "delete", session.id, token))
        assert deleted.status_code == 200
        assert files_of(here) == []
        assert (await listed(here, token))["sessions"] == []
