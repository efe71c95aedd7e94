"""Quotas on real servers: two web processes' worth of parts on one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import select, update

from server.adapters.database import tables, writing
from server.adapters.database.quotas import take_quota
from server.config.parsing import UploadRate
from server.config.plans import PlanSetting
from server.config.settings import Config
from server.domain.quotas import DAY_SECONDS, seconds_to_midnight
from server.domain.tokens import new_token
from testkit.issuers import Issuer, issuing
from testkit.running import Web, running_web
from testkit.uploads import form, upload
from tryon.protocol.paths import QUOTA, SESSIONS


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Run an issuer."""
    async with issuing() as issuer:
        yield issuer


@pytest.fixture
async def webs(config: Callable[..., Config], database_url: str, issuer: Issuer) -> AsyncIterator[tuple[Web, Web]]:
    """Run two servers on the same data, on every database."""
    plans = (
        PlanSetting(name="anonymous", uploads_per_day=2),
        PlanSetting(name="small", scope="small", uploads_per_day=3, concurrent_sessions=2, stored_bytes=10**6),
        PlanSetting(name="busy", scope="busy", concurrent_sessions=2),
        PlanSetting(name="full", scope="full", stored_bytes=1),
        PlanSetting(name="other", scope="other", processors=("another",)),
    )
    settings = config(**issuer.settings, quotas=plans, quota_claim="tier", queue_share_per_owner=None)
    async with running_web(settings) as one, running_web(settings) as two:
        yield one, two


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def quota(web: Web, **headers: str) -> dict[str, Any]:
    answer = await web.client.get(QUOTA, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def assert_exceeded(answer: httpx.Response, limit: str) -> None:
    assert answer.status_code == 429, answer.text
    assert (answer.json()["code"], answer.json()["limit"]) == ("over_quota", limit)
    assert int(answer.headers["retry-after"]) >= 1


async def test_uploads_of_a_day_count_over_all_servers(webs: tuple[Web, Web], issuer: Issuer) -> None:
    """Erased sessions and retries count; a refusal and a replay do not."""
    one, two = webs
    token = issuer.token("ann", scope="small")
    first = await upload(one, token, **{"Idempotency-Key": "k"})
    assert (await quota(two, **bearer(token)))["uploads_per_day"] == {"limit": 3, "used": 1, "remaining": 2}
    session_id = first.json()["session_id"]
    assert (await two.client.post(f"{SESSIONS}/{session_id}/cancel", headers=bearer(token))).status_code == 200
    retried = await one.client.post(f"{SESSIONS}/{session_id}/retry", headers=bearer(token))
    assert retried.status_code == 201
    assert (await upload(two, token, **{"Idempotency-Key": "k"})).status_code == 201
    assert (await one.client.post(SESSIONS, files=form(b"no photo"), headers=bearer(token))).status_code >= 415
    await one.client.delete(f"{SESSIONS}/{session_id}", headers=bearer(token))
    assert (await upload(two, token)).status_code == 201
    for web in webs:
        assert_exceeded(await upload(web, token), "uploads_per_day")
    found = await quota(one, **bearer(token))
    assert (found["plan"], found["uploads_per_day"]["remaining"]) == ("small", 0)
    assert found["concurrent_sessions"] == {"limit": 2, "used": 1, "remaining": 1}
    assert found["stored_bytes"]["used"] > 0
    assert (await upload(one, issuer.token("bob", scope="small"))).status_code == 201


async def test_uploads_at_once_do_not_exceed_a_plan(webs: tuple[Web, Web], issuer: Issuer) -> None:
    """Of twelve uploads at the same moment, on two servers, two run and are counted."""
    token = issuer.token("ann", scope="busy")
    answers = await asyncio.gather(*(upload(web, token) for web in webs * 6))
    assert sorted(answer.status_code for answer in answers) == [201] * 2 + [429] * 10
    for answer in answers:
        if answer.status_code == 429:
            assert_exceeded(answer, "concurrent_sessions")
    found = await quota(webs[0], **bearer(token))
    assert (found["uploads_per_day"]["used"], found["concurrent_sessions"]["used"]) == (2, 2)


async def test_refusal_of_a_plan_counts_against_the_rate(config: Callable[..., Config]) -> None:
    """A client with nothing left cannot ask without end; the rate's 429 adds none."""
    plans = (PlanSetting(name="anonymous", uploads_per_day=0),)
    async with running_web(config(quotas=plans, upload_rate=UploadRate(2, 60))) as web:
        answers = [await upload(web) for _ in range(4)]
    assert [answer.json()["limit"] for answer in answers] == ["uploads_per_day"] * 2 + ["upload_rate"] * 2
    left = [answer.headers["ratelimit"].split(";")[1] for answer in answers]
    assert left == ["r=1", "r=0", "r=0", "r=0"]


async def test_bytes_processors_and_claims_are_those_of_the_plan(webs: tuple[Web, Web], issuer: Issuer) -> None:
    """The claim wins over the scope; a user without a plan has no limit."""
    one, _ = webs
    assert_exceeded(await upload(one, issuer.token("ann", scope="full")), "stored_bytes")
    refused = await upload(one, issuer.token("ann", scope="full", tier="other"))
    assert (refused.status_code, refused.json()["code"]) == (403, "processor_not_allowed")
    for _ in range(3):
        assert (await upload(one, issuer.token("ann"))).status_code == 201
    found = await quota(one, **bearer(issuer.token("ann")))
    assert (found["plan"], found["uploads_per_day"], found["processors"]) == (None, None, None)


async def test_anonymous_clients_are_counted_by_address(webs: tuple[Web, Web]) -> None:
    """A new token brings no new uploads."""
    one, two = webs
    assert [(await upload(web, new_token())).status_code for web in webs] == [201, 201]
    for token in (None, new_token()):
        assert_exceeded(await upload(two, token), "uploads_per_day")
    assert (await quota(one))["uploads_per_day"] == {"limit": 2, "used": 2, "remaining": 0}


async def test_quota_holds_without_redis(
    webs: tuple[Web, Web], issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database counts; what Redis remembers only spares the body."""
    token = issuer.token("ann", scope="small", tier="anonymous")
    for web in webs:
        monkeypatch.setattr(web.services.redis, "get", _away)
        monkeypatch.setattr(web.services.redis, "set", _away)
    assert [(await upload(web, token)).status_code for web in webs] == [201, 201]
    for web in webs:
        assert_exceeded(await upload(web, token), "uploads_per_day")
        assert_exceeded(
            await web.client.post(SESSIONS, files=form(b"no photo"), headers=bearer(token)), "uploads_per_day"
        )
    assert (await quota(webs[0], **bearer(token)))["uploads_per_day"]["remaining"] == 0


async def test_quota_holds_when_redis_loses_its_notes(webs: tuple[Web, Web], issuer: Issuer) -> None:
    """The next refusal by the database is noted anew, and spares the reading again."""
    one, two = webs
    token = issuer.token("ann", scope="small", tier="anonymous")
    assert [(await upload(web, token)).status_code for web in webs] == [201, 201]
    assert_exceeded(await upload(one, token), "uploads_per_day")
    [key] = await noted(one)
    assert 0 < await one.services.redis.ttl(key) <= DAY_SECONDS + 1
    await one.services.redis.delete(key)
    assert_exceeded(await upload(two, token), "uploads_per_day")
    assert await noted(one) == [key]
    before = await one.client.post(SESSIONS, files=form(b"no photo"), headers=bearer(token))
    assert_exceeded(before, "uploads_per_day")


async def noted(web: Web) -> list[bytes]:
    """Return the keys of all subjects that Redis remembers."""
    return [key async for key in web.services.redis.scan_iter(f"{web.config.key_prefix}quota:*")]


async def test_replay_is_no_upload_when_the_last_one_is_taken(webs: tuple[Web, Web], issuer: Issuer) -> None:
    """Equal requests of one key on both servers make one session, and count once."""
    token = issuer.token("ann", scope="small", tier="anonymous")
    assert (await upload(webs[0], token)).status_code == 201
    same = [upload(web, token, **{"Idempotency-Key": "k"}) for web in webs * 3]
    answers = await asyncio.gather(*same)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["session_id"] for answer in answers}) == 1
    assert (await upload(webs[1], token, **{"Idempotency-Key": "k"})).status_code == 201
    assert_exceeded(await upload(webs[1], token, **{"Idempotency-Key": "other"}), "uploads_per_day")
    assert (await quota(webs[0], **bearer(token)))["uploads_per_day"]["used"] == 2


async def test_retry_is_answered_again_when_nothing_is_left(webs: tuple[Web, Web], issuer: Issuer) -> None:
    """A retry is an upload; the second answer to the same one is not."""
    one, two = webs
    token = issuer.token("ann", scope="small", tier="anonymous")
    session_id = (await upload(one, token)).json()["session_id"]
    await one.client.post(f"{SESSIONS}/{session_id}/cancel", headers=bearer(token))
    retries = [web.client.post(f"{SESSIONS}/{session_id}/retry", headers=bearer(token)) for web in webs]
    first, second = await asyncio.gather(*retries)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["session_id"] == second.json()["session_id"]
    new_id = first.json()["session_id"]
    await two.client.post(f"{SESSIONS}/{new_id}/cancel", headers=bearer(token))
    refused = await two.client.post(f"{SESSIONS}/{new_id}/retry", headers=bearer(token))
    assert_exceeded(refused, "uploads_per_day")


async def test_refusal_of_a_day_is_not_remembered_for_the_next(
    webs: tuple[Web, Web], issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Midnight passes between an insert's judgement and the end of its rollback."""
    one, two = webs
    token = issuer.token("ann", scope="small", tier="anonymous")
    assert [(await upload(web, token)).status_code for web in webs] == [201, 201]
    days = 0.0

    async def take_at_midnight(*arguments: Any, **options: Any) -> None:
        nonlocal days
        try:
            await take_quota(*arguments, **options)
        finally:
            days += seconds_to_midnight(now()) + 1

    now = one.database.clock.now
    for web in webs:
        monkeypatch.setattr(web.database.clock, "now", lambda: now() + days)
    with monkeypatch.context() as during:
        during.setattr(writing, "take_quota", take_at_midnight)
        assert_exceeded(await upload(one, token), "uploads_per_day")
    assert days
    assert await noted(one) == []
    assert [(await upload(web, token)).status_code for web in webs] == [201, 201]
    assert_exceeded(await upload(two, token), "uploads_per_day")
    assert len(await noted(one)) == 1


MALFORMED: Final = {"content": b"no parts", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}
"""A body that is refused as soon as it is read."""


async def test_upload_with_a_key_is_refused_before_its_body(webs: tuple[Web, Web], issuer: Issuer) -> None:
    """The body of a key that made a session is read: its replay needs it."""
    token = issuer.token("ann", scope="small", tier="anonymous")
    for web, key in zip(webs, ("one", "two"), strict=True):
        assert (await upload(web, token, **{"Idempotency-Key": key})).status_code == 201
    assert_exceeded(await upload(webs[0], token, **{"Idempotency-Key": "three"}), "uploads_per_day")
    for web in webs:
        web.client.headers.update(bearer(token))
        unread = await web.client.post(SESSIONS, **with_header(MALFORMED, "Idempotency-Key", "four"))
        assert_exceeded(unread, "uploads_per_day")
        read = await web.client.post(SESSIONS, **with_header(MALFORMED, "Idempotency-Key", "one"))
        assert (read.status_code, read.json()["code"]) == (400, "bad_multipart")
        assert (await upload(web, token, **{"Idempotency-Key": "one"})).headers["idempotent-replay"] == "true"


def with_header(options: dict[str, Any], name: str, value: str) -> dict[str, Any]:
    return options | {"headers": options["headers"] | {name: value}}


@pytest.mark.parametrize("at", [1, 2])
async def test_replay_is_answered_when_its_first_request_takes_the_last_upload(
    webs: tuple[Web, Web], issuer: Issuer, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """It does so just before a check of the second: before the body, or after it."""
    one, two = webs
    token = issuer.token("ann", scope="small", tier="anonymous")
    assert (await upload(one, token)).status_code == 201
    for web in webs:  # so that the database is asked
        monkeypatch.setattr(web.services.redis, "get", _away)
    check, checks, first = two.services.sessions.quotas.check, 0, []

    async def check_later(quota: Any) -> None:
        nonlocal checks
        checks += 1
        if checks == at:
            first.append(await upload(one, token, **{"Idempotency-Key": "k"}))
        await check(quota)

    monkeypatch.setattr(two.services.sessions.quotas, "check", check_later)
    second = await upload(two, token, **{"Idempotency-Key": "k"})
    assert [answer.status_code for answer in (*first, second)] == [201, 201]
    assert second.json()["session_id"] == first[0].json()["session_id"]
    assert (await quota(one, **bearer(token)))["uploads_per_day"]["used"] == 2


async def test_answers_of_before_are_repeated_when_the_plan_excludes_the_processor(
    webs: tuple[Web, Web], issuer: Issuer
) -> None:
    """A replay and an answered retry are no new sessions; others are refused."""
    one, two = webs
    before, after = (issuer.token("ann", tier=tier) for tier in ("busy", "other"))
    session_id = (await upload(one, before, **{"Idempotency-Key": "k"})).json()["session_id"]
    again = await upload(two, after, **{"Idempotency-Key": "k"})
    assert (again.status_code, again.json()["session_id"]) == (201, session_id)
    await one.client.post(f"{SESSIONS}/{session_id}/cancel", headers=bearer(before))
    retry = f"{SESSIONS}/{session_id}/retry"
    refused = [
        await one.client.post(retry, headers=bearer(after)),
        await upload(one, after),
        await upload(one, after, **{"Idempotency-Key": "other"}),
    ]
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (403, "processor_not_allowed")
    first = await one.client.post(retry, headers=bearer(before))
    second = await two.client.post(retry, headers=bearer(after))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["session_id"] == second.json()["session_id"]


async def _away(*arguments: Any, **options: Any) -> None:
    raise ConnectionError


async def test_counts_of_days_that_are_over_are_deleted(webs: tuple[Web, Web], issuer: Issuer) -> None:
    """By the cleanup; those of today stay."""
    one, _ = webs
    for subject in ("ann", "bob"):
        assert (await upload(one, issuer.token(subject, scope="small"))).status_code == 201
    column = tables.quotas.c
    async with one.database.connections.write() as connection:
        subject = (await connection.execute(select(column.subject).limit(1))).scalar_one()
        old = update(tables.quotas).where(column.subject == subject).values(day=column.day - 1)
        await connection.execute(old)
    await one.services.reconciling.cleanup.clean_up()
    async with one.database.connections.read() as connection:
        assert len((await connection.execute(select(column.day))).all()) == 1
