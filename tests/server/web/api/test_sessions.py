"""What an owner may do with a session: cancel, try again, erase, list, look back.

On both databases where they race.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import time
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import redis.asyncio as redis
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import text

from server.adapters.database.changes import NewSession
from server.adapters.redis.queue import job_id
from server.config.parsing import UploadRate
from server.domain.session import Session
from server.domain.tokens import new_token, token_hash
from server.sessions.claims import Claim
from server.sessions.submissions import Photo
from testkit.fixtures import StartStack
from testkit.following import NOT_FOUND, TRANSPORTS, follow
from testkit.running import PHOTO, Web, until
from testkit.values import new_session_id
from tests.server.web.conftest import StartWeb

SESSIONS: Final = "/api/tryon/sessions"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def do(web: Web, verb: str, session_id: str, token: str) -> httpx.Response:
    """cancel, retry, delete, history or get."""
    path = f"{SESSIONS}/{session_id}"
    method = {"delete": "DELETE", "get": "GET", "history": "GET"}.get(verb, "POST")
    return await web.client.request(
        method, path if verb in ("delete", "get") else f"{path}/{verb}", headers=bearer(token)
    )


async def with_garment(web: Web, token: str) -> Session:
    return await web.services.sessions.submissions.submit(
        owner=token_hash(token),
        image=PHOTO,
        garment=Photo(b"\x89PNG a garment", "png"),
        params={"size": "M"},
        request_id=None,
    )


async def failed(web: Web, token: str | None = None) -> tuple[Session, str]:
    token = token or new_token()
    session = await with_garment(web, token)
    assert await web.services.sessions.claims.fail(await web.begin(session), "mock_failure")
    return session, token


def files_of(web: Web) -> list[Path]:
    return [path for path in web.config.uploads_dir.rglob("*") if path.is_file()]


# -- who may ---------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["cancel", "retry", "delete", "history"])
async def test_a_verb_on_what_is_not_mine_is_a_404_and_changes_nothing(web: Web, verb: str) -> None:
    session, token = await failed(web)
    before = await web.database.reading.get(session.id)
    unknown = await do(web, verb, new_session_id(), token)
    foreign = await do(web, verb, session.id, new_token())
    without = await web.client.request(foreign.request.method, foreign.request.url.path)
    malformed = await do(web, verb, "not-an-id", token)
    for answer in (unknown, foreign, without, malformed):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert foreign.json() | {"request_id": ""} == unknown.json() | {"request_id": ""}
    assert await web.database.reading.get(session.id) == before


@pytest.mark.parametrize("verb", ["cancel", "retry", "delete"])
async def test_a_ticket_may_look_and_not_touch(web: Web, verb: str) -> None:
    session, token = await failed(web)
    ticket = (await do(web, "get", session.id, token)).json()["links"]["ws"].partition("?")[2]
    path = f"{SESSIONS}/{session.id}"
    assert (await web.client.get(f"{path}?{ticket}")).status_code == 200
    method, path = ("DELETE", path) if verb == "delete" else ("POST", f"{path}/{verb}")
    answer = await web.client.request(method, f"{path}?{ticket}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert await web.database.reading.get(session.id) is not None


# -- cancel ----------------------------------------------------------------------------


async def test_what_waits_is_cancelled_at_once(web: Web) -> None:
    session, token = await web.submit()
    answer = await do(web, "cancel", session.id, token)
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["seq"], answer.json()["terminal"]) == ("cancelled", 2, True)
    assert not await web.services.queue.contains(session.id, 0, 1)
    assert await web.services.sessions.claims.begin(session.id, worker="late") is None


async def test_what_runs_will_be_cancelled(web: Web) -> None:
    session, token = await web.submit()
    claim = await web.begin(session)
    for _ in range(2):  # asking again is no harm
        answer = await do(web, "cancel", session.id, token)
        assert (answer.status_code, answer.json()["status"]) == (202, "processing")
    assert await web.services.sessions.claims.renew(claim) == "cancelled"
    assert await web.services.sessions.claims.requeue(claim, burnt=False, reason="cancelled")
    assert (await do(web, "get", session.id, token)).json()["status"] == "cancelled"


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_what_has_ended_is_not_changed_by_cancelling(web: Web, status: str) -> None:
    session, token = await web.submit()
    if status == "cancelled":
        await do(web, "cancel", session.id, token)
    elif status == "completed":
        await web.complete(await web.begin(session))
    else:
        await web.services.sessions.claims.fail(await web.begin(session), "mock_failure")
    before = await web.database.reading.get(session.id)
    answer = await do(web, "cancel", session.id, token)
    assert (answer.status_code, answer.json()["status"]) == (200, status)
    assert await web.database.reading.get(session.id) == before


async def running_and_asked_to_stop(web: Web) -> tuple[Session, Claim]:
    session, token = await web.submit()
    claim = await web.begin(session)
    assert (await do(web, "cancel", session.id, token)).status_code == 202
    return session, claim


async def test_a_wish_to_cancel_refuses_a_result(web: Web) -> None:
    session, claim = await running_and_asked_to_stop(web)
    before = set(files_of(web))
    assert not await web.services.sessions.claims.complete(claim, b"result", "jpg")
    now = await web.database.reading.get(session.id)
    assert now is not None
    assert (now.status, now.output_key) == ("processing", None)
    assert set(files_of(web)) == before  # the refused output is gone again


@pytest.mark.parametrize("burnt", [False, True])
async def test_a_wish_to_cancel_turns_a_requeue_into_cancelled(web: Web, burnt: bool) -> None:
    session, claim = await running_and_asked_to_stop(web)
    assert await web.services.sessions.claims.requeue(claim, burnt=burnt, reason="drain")
    now = await web.database.reading.get(session.id)
    assert now is not None
    assert now.status == "cancelled"


async def test_a_wish_to_cancel_outlives_the_worker(start_web: StartWeb) -> None:
    web = await start_web(lease_seconds=0.2)
    session, _ = await running_and_asked_to_stop(web)  # whose worker is never heard of again
    async with asyncio.timeout(10):
        while (now := await web.database.reading.get(session.id)) and not now.status.terminal:
            await asyncio.sleep(0.02)
    assert now is not None
    assert now.status == "cancelled"


async def test_cancel_and_claim_at_the_same_moment_agree(start_web: StartWeb, database_url: str) -> None:
    """Whoever wins, the session ends cancelled: at once, or by the worker that is told."""
    web = await start_web()
    for _ in range(10):
        session, token = await web.submit()
        answer, claim = await asyncio.gather(
            do(web, "cancel", session.id, token), web.services.sessions.claims.begin(session.id, worker="w")
        )
        if claim is None:
            assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        else:
            assert answer.status_code == 202
            assert await web.services.sessions.claims.renew(claim) == "cancelled"
            assert await web.services.sessions.claims.requeue(claim, burnt=False, reason="cancelled")
        history = (await do(web, "history", session.id, token)).json()["events"]
        assert [event["seq"] for event in history] == list(range(1, len(history) + 1))
        assert history[-1]["status"] == "cancelled"


async def test_a_running_mock_stops_within_200_ms(stack: StartStack, photos: Path) -> None:
    running = await stack(TRYON_MOCK_SECONDS="60")
    token = new_token()
    image = (photos / "photo.webp").read_bytes()
    seconds = []
    async with httpx.AsyncClient(base_url=running.url, headers=bearer(token), trust_env=False) as client:
        for _ in range(3):
            session_id = (await client.post(SESSIONS, files={"image": image})).json()["session_id"]
            async with contextlib.aclosing(follow("ws", running.url, session_id, token)) as steps:
                async for step in steps:
                    if step.status == "processing":
                        asked = time.monotonic()
                        assert (await client.post(f"{SESSIONS}/{session_id}/cancel")).status_code == 202
                    if step.status == "cancelled":
                        seconds.append(time.monotonic() - asked)
                        break
    assert min(seconds) < 0.2, seconds  # the machine may be busy with something else in between


# -- retry -----------------------------------------------------------------------------


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


# -- delete ----------------------------------------------------------------------------


async def traces(web: Web, session_id: str) -> list[str]:
    """Everything that still knows of a session: files, rows, Redis keys and what is in
    them.
    """
    names = (session_id, session_id.replace("-", ""))
    found = [str(path) for path in files_of(web) if session_id in path.name]
    async with web.database.connections.engine.connect() as connection:
        for table in ("tryon_sessions", "tryon_events", "tryon_gone", "tryon_leases"):
            for row in (await connection.execute(text(f"SELECT * FROM {table}"))).all():
                found += [f"{table}: {row}" for name in names if name in str(row)]
    client = redis.Redis.from_url(web.config.redis, decode_responses=True)
    async with client:
        for key in [key async for key in client.scan_iter()]:
            kind = await client.type(key)
            value: Any = {
                "string": client.get,
                "hash": client.hgetall,
                "list": lambda k: client.lrange(k, 0, -1),
                "set": client.smembers,
                "zset": lambda k: client.zrange(k, 0, -1),
            }[kind](key)
            content = f"{key}: {await value}"
            found += [content for name in names if name in content]
    return found


async def test_deleting_leaves_nothing(start_web: StartWeb, database_url: str) -> None:
    web = await start_web()
    token = new_token()
    session = await with_garment(web, token)
    claim = await web.begin(session)
    await web.services.sessions.claims.report(claim, 0.5, "rendering")
    await web.services.queue.enqueue(session.id, 1, 1, score_ms=0)
    async with asyncio.timeout(5):
        while not await web.services.bus.last_progress([session.id]):
            await asyncio.sleep(0.005)
    await web.complete(claim)
    assert len(await traces(web, session.id)) >= 8
    assert (await do(web, "delete", session.id, token)).status_code == 200
    assert await traces(web, session.id) == []
    assert files_of(web) == []


async def test_a_job_that_waits_is_deleted_too(web: Web) -> None:
    session, token = await web.submit()
    assert any(job_id(session.id, 0, 1) in trace for trace in await traces(web, session.id))
    await do(web, "delete", session.id, token)
    assert await traces(web, session.id) == []


async def test_all_retries_of_the_photo_go_with_it(web: Web) -> None:
    first, token = await failed(web)
    second = (await do(web, "retry", first.id, token)).json()["session_id"]
    row = await web.database.reading.get(second)
    assert row is not None
    await web.services.sessions.claims.fail(await web.begin(row), "mock_failure")
    third = (await do(web, "retry", second, token)).json()["session_id"]
    other = await with_garment(web, token)
    receipt = (await do(web, "delete", second, token)).json()  # from the middle of the chain
    assert {file["session_id"] for file in receipt["files"]} == {first.id, second, third}
    for session_id in (first.id, second, third):
        assert (await do(web, "get", session_id, token)).status_code == 404
        assert await traces(web, session_id) == []
    assert (await do(web, "get", other.id, token)).status_code == 200


def canonical(receipt: dict[str, Any]) -> bytes:
    """What is signed, as docs/protocol.md says it."""
    body = {name: receipt[name] for name in ("session_id", "reason", "deleted_at", "files")}
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def unbase64(value: str) -> bytes:
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))


async def test_the_receipt_can_be_checked_by_anybody(web: Web) -> None:
    token = new_token()
    session = await with_garment(web, token)
    await web.complete(await web.begin(session))
    links = (await do(web, "get", session.id, token)).json()["links"]
    stored = {
        role: (await web.client.get(links[name])).content
        for role, name in (("image", "input"), ("garment", "garment"), ("output", "output"))
    }
    answer = await do(web, "delete", session.id, token)
    receipt = answer.json()
    assert set(receipt) == {"session_id", "reason", "deleted_at", "files", "key_id", "signature"}
    assert (answer.status_code, receipt["session_id"], receipt["reason"]) == (200, session.id, "deleted")
    assert receipt["files"] == [
        {"session_id": session.id, "role": role, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for role, data in stored.items()
    ]
    keys = {key["key_id"]: key for key in (await web.client.get("/api/tryon/receipt-key")).json()["keys"]}
    key = keys[receipt["key_id"]]
    assert key["algorithm"] == "Ed25519"
    public = Ed25519PublicKey.from_public_bytes(unbase64(key["public_key"]))
    public.verify(unbase64(receipt["signature"]), canonical(receipt))
    with pytest.raises(InvalidSignature):
        public.verify(unbase64(receipt["signature"]), canonical(receipt | {"deleted_at": "2026-01-01T00:00:00.000Z"}))


async def test_receipts_outlive_a_change_of_the_secret_key(start_web: StartWeb) -> None:
    before = await start_web()
    session, token = await before.submit()
    receipt = (await do(before, "delete", session.id, token)).json()
    after = await start_web(secret_keys=("new-new-new-new-new-new-new-new-new", *before.config.secret_keys))
    keys = {k["key_id"]: k["public_key"] for k in (await after.client.get("/api/tryon/receipt-key")).json()["keys"]}
    assert len(keys) == 2
    public = Ed25519PublicKey.from_public_bytes(unbase64(keys[receipt["key_id"]]))
    public.verify(unbase64(receipt["signature"]), canonical(receipt))
    assert next(iter(keys)) != receipt["key_id"]  # the first signs


async def test_whoever_is_connected_is_told(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next()
        await do(web, "delete", session.id, token)
        assert await client.rest() == 4510
    assert (client.frames[-1]["reason"], client.frames[-1]["reconnect"]) == ("deleted", False)


async def test_whoever_is_connected_elsewhere_is_told(start_web: StartWeb, database_url: str) -> None:
    here, there = await start_web(), await start_web()
    session, token = await here.submit()
    async with there.follow(session.id, token) as client:
        await client.next()
        await do(here, "delete", session.id, token)
        assert await client.rest() == 4510


async def test_afterwards_it_is_a_404_for_everything(web: Web) -> None:
    session, token = await failed(web)
    own = (await do(web, "get", session.id, token)).json()
    await do(web, "delete", session.id, token)
    for verb in ("get", "history", "cancel", "retry", "delete"):
        assert (await do(web, verb, session.id, token)).status_code == 404
    for link in (own["links"]["input"], own["links"]["garment"], own["links"]["events"]):
        assert (await web.client.get(link)).status_code == 404
    for transport in TRANSPORTS:
        url = f"http://127.0.0.1:{web.port}"
        assert [step async for step in follow(transport, url, session.id, token)] == [NOT_FOUND]


async def test_two_deletes_at_once_give_one_receipt(start_web: StartWeb, database_url: str) -> None:
    here, there = await start_web(), await start_web()
    session, token = await failed(here)
    answers = await asyncio.gather(*(do(web, "delete", session.id, token) for web in (here, there) * 2))
    assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404]


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


async def test_a_storage_that_is_away_does_not_keep_anybody_from_being_told(web: Web) -> None:
    session, token = await web.submit()
    photo = web.config.uploads_dir / session.input_key
    photo.unlink()
    photo.mkdir()  # can neither be read nor deleted as a file
    async with web.follow(session.id, token) as client:
        await client.next()
        assert (await do(web, "delete", session.id, token)).status_code == 503
        assert await client.rest() == 4510
    assert client.frames[-1]["reason"] == "deleted"
    assert (await do(web, "get", session.id, token)).status_code == 404
    async with web.database.connections.read() as connection:
        reasons = (await connection.execute(text("SELECT reason FROM tryon_gone"))).scalars().all()
    assert reasons == ["deleted"]
    photo.rmdir()
    await web.services.reconciling.reconciler.maintain()
    assert await traces(web, session.id) == []


async def test_a_worker_learns_that_its_session_is_gone(web: Web) -> None:
    session, token = await web.submit()
    claim = await web.begin(session)
    await do(web, "delete", session.id, token)
    assert await web.services.sessions.claims.renew(claim) == "lost"
    assert not await web.services.sessions.claims.complete(claim, b"late result", "jpg")
    assert files_of(web) == []
    assert await traces(web, session.id) == []


async def test_progress_that_comes_late_leaves_no_key(web: Web) -> None:
    session, token = await web.submit()
    claim = await web.begin(session)
    await do(web, "delete", session.id, token)
    await web.services.sessions.claims.report(claim, 0.9, "rendering")
    await until(lambda: claim.reports.timer is None)
    assert await traces(web, session.id) == []


# -- list ------------------------------------------------------------------------------


async def listed(web: Web, token: str, **query: Any) -> dict[str, Any]:
    answer = await web.client.get(SESSIONS, params=query, headers=bearer(token))
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def test_a_list_needs_a_token(web: Web) -> None:
    session, token = await web.submit()
    ticket = (await do(web, "get", session.id, token)).json()["links"]["ws"].partition("?")[2]
    for query in ("", f"?{ticket}"):
        answer = await web.client.get(SESSIONS + query)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_required")
    answer = await web.client.get(SESSIONS, headers=bearer("short"))
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")


async def test_a_list_shows_mine_newest_first_and_nobody_elses(web: Web) -> None:
    token = new_token()
    mine = [(await web.submit(token))[0].id for _ in range(3)]
    await web.submit()
    page = await listed(web, token)
    assert page["next_cursor"] is None
    assert sorted(page["sessions"], key=lambda s: (s["created_at"], s["session_id"]), reverse=True) == page["sessions"]
    assert {session["session_id"] for session in page["sessions"]} == set(mine)
    single = (await do(web, "get", mine[0], token)).json()
    assert set(page["sessions"][0]) == set(single)
    assert await listed(web, new_token()) == {"sessions": [], "next_cursor": None}


async def test_pages_join_without_gap_or_double_while_new_sessions_arrive(
    start_web: StartWeb, database_url: str
) -> None:
    web = await start_web()
    token = new_token()
    mine = {(await web.submit(token))[0].id for _ in range(7)}
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await listed(web, token, limit=2, **cursor)
        assert len(page["sessions"]) <= 2
        seen += [session["session_id"] for session in page["sessions"]]
        await web.submit(token)  # newer than everything that this reader will still see
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert len(seen) == len(set(seen))
    assert set(seen) == mine


async def test_sessions_of_one_moment_are_paged_like_all_others(web: Web) -> None:
    token = new_token()
    mine = {(await web.submit(token))[0].id for _ in range(5)}
    async with web.database.connections.engine.begin() as connection:
        await connection.execute(
            text("UPDATE tryon_sessions SET created_at = (SELECT min(created_at) FROM tryon_sessions)")
        )
    first = await listed(web, token, limit=3)
    second = await listed(web, token, limit=3, cursor=first["next_cursor"])
    ids = [session["session_id"] for session in first["sessions"] + second["sessions"]]
    assert len(ids) == 5
    assert set(ids) == mine


async def test_erasing_while_paging_loses_nobody_else(web: Web) -> None:
    token = new_token()
    for _ in range(4):
        await web.submit(token)
    everything = [session["session_id"] for session in (await listed(web, token))["sessions"]]
    first = await listed(web, token, limit=2)
    await do(web, "delete", everything[1], token)  # the very one that the cursor names
    second = await listed(web, token, limit=2, cursor=first["next_cursor"])
    assert [session["session_id"] for session in second["sessions"]] == everything[2:]


SOME_ID = "01a203d1-001e-708f-adb5-0b0ec30e9306"  # the same in every process: xdist compares the names of tests


@pytest.mark.parametrize(
    "cursor",
    ["x", "", "!!", "é", "A" * 5000, base64.urlsafe_b64encode(b"1.nobody").decode(),
     base64.urlsafe_b64encode(f"{'9' * 18}.{SOME_ID}".encode()).decode(),
     base64.urlsafe_b64encode(f"-1e9.{SOME_ID}".encode()).decode(),
     base64.urlsafe_b64encode(f"{'9' * 40}.{SOME_ID}".encode()).decode()],
)  # fmt: skip
async def test_a_cursor_that_is_none_of_ours_is_refused(web: Web, cursor: str) -> None:
    answer = await web.client.get(SESSIONS, params={"cursor": cursor}, headers=bearer(new_token()))
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "1.5", "９", "9" * 5000])
async def test_a_limit_is_from_1_to_100(web: Web, limit: str) -> None:
    answer = await web.client.get(SESSIONS, params={"limit": limit}, headers=bearer(new_token()))
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


# -- history ---------------------------------------------------------------------------


async def test_history_is_the_whole_trail_with_links_that_work(web: Web) -> None:
    session, token = await web.submit()
    assert await web.services.sessions.claims.requeue(await web.begin(session), burnt=True, reason="lease_lost")
    await web.complete(await web.begin(session))
    events = (await do(web, "history", session.id, token)).json()["events"]
    assert [(e["seq"], e["event"], e["from"], e["status"], e["attempt"]) for e in events] == [
        (1, "created", None, "created", 0),
        (2, "processing", "created", "processing", 1),
        (3, "requeued", "processing", "created", 1),
        (4, "processing", "created", "processing", 2),
        (5, "completed", "processing", "completed", 2),
    ]
    assert [set(event) for event in events] == [{"seq", "event", "from", "status", "at", "attempt", "data"}] * 5
    assert events[2]["data"] == {"reason": "lease_lost"}
    assert sorted(event["at"] for event in events) == [event["at"] for event in events]
    for link in (events[0]["data"]["input"], events[4]["data"]["output"]):
        assert (await web.client.get(link)).status_code == 200


async def test_history_by_ticket_has_no_link_that_outlives_it(web: Web) -> None:
    session, token = await web.submit()
    links = (await do(web, "get", session.id, token)).json()["links"]
    ticket = links["ws"].partition("ticket=")[2]
    answer = await web.client.get(f"{SESSIONS}/{session.id}/history?ticket={ticket}")
    expires = int(httpx.URL(answer.json()["events"][0]["data"]["input"]).params["expires"])
    assert expires <= int(ticket.split(".")[1])


async def test_history_tells_why_a_session_failed(web: Web) -> None:
    session, token = await failed(web)
    last = (await do(web, "history", session.id, token)).json()["events"][-1]
    assert (last["event"], last["data"]["error"]["code"]) == ("failed", "mock_failure")
