"""The shares of one token and one address: places in the queue, and stored bytes."""

from __future__ import annotations

from typing import Final

from sqlalchemy import select

from server.adapters.database import tables
from server.domain.stored_files import NewFile
from server.domain.tokens import new_token
from testkit.running import StartWeb, Web
from testkit.uploads import assert_problem, form, picture, stored, upload
from tryon.protocol.paths import SESSIONS

PICTURE: Final = picture((100, 100))


async def stored_bytes(web: Web) -> int:
    """Return the bytes of every stored file."""
    return sum(path.stat().st_size for path in web.config.uploads_dir.rglob("*") if path.is_file())


async def test_token_has_its_share_of_the_queue(start_web: StartWeb) -> None:
    """The refusal names its limit, leaves nothing, and concerns no other token."""
    web = await start_web(queue_limit=100, queue_share_per_owner=0.02)
    token = new_token()
    assert [(await upload(web, token)).status_code for _ in range(2)] == [201, 201]
    before = await stored(web)
    answer = await upload(web, token)
    assert_problem(answer, 429, "rate_limited")
    assert (answer.json()["limit"], answer.headers["Retry-After"]) == ("queue_share_per_owner", "10")
    assert await stored(web) == before
    assert (await upload(web)).status_code == 201


async def test_new_tokens_are_no_way_around_the_share(start_web: StartWeb) -> None:
    """Tokens are free: an address has a share, too, and keeps it when Redis is lost."""
    web = await start_web(queue_limit=100, queue_share_per_address=0.02)
    assert [(await upload(web)).status_code for _ in range(2)] == [201, 201]
    await web.services.redis.flushdb()
    answer = await upload(web)
    assert_problem(answer, 429, "rate_limited")
    assert answer.json()["limit"] == "queue_share_per_address"


async def test_session_that_runs_gives_its_place_back(start_web: StartWeb) -> None:
    """The share is of those that wait."""
    web = await start_web(queue_limit=100, queue_share_per_owner=0.01)
    token = new_token()
    session, _ = await web.submit(token)
    assert (await upload(web, token)).status_code == 429
    await web.begin(session)
    assert (await upload(web, token)).status_code == 201


async def test_deletion_gives_room_back(start_web: StartWeb) -> None:
    """Photos count until they are erased, results with them."""
    web = await start_web(stored_bytes_per_owner=20_000)
    token = new_token()
    session, _ = await web.submit(token)
    claim = await web.begin(session)
    assert await web.services.sessions.claims.complete(claim, [NewFile(bytes(20_000))])
    answer = await upload(web, token)
    assert_problem(answer, 429, "rate_limited")
    assert (answer.json()["limit"], answer.headers["Retry-After"]) == ("stored_bytes_per_owner", "600")
    assert (await upload(web)).status_code == 201
    await web.client.delete(f"{SESSIONS}/{session.id}", headers={"Authorization": f"Bearer {token}"})
    assert (await upload(web, token)).status_code == 201


async def test_address_fills_no_disk_with_new_tokens(start_web: StartWeb) -> None:
    """What is stored never exceeds the limit, whatever the number of tokens."""
    web = await start_web(stored_bytes_per_address=3000)
    answers = [await upload(web) for _ in range(20)]
    assert answers[0].status_code == 201
    assert_problem(answers[-1], 429, "rate_limited")
    assert answers[-1].json()["limit"] == "stored_bytes_per_address"
    assert 0 < await stored_bytes(web) <= 3000


async def test_replay_is_answered_without_room(start_web: StartWeb) -> None:
    """An upload that was accepted is not refused when its client asks again."""
    web = await start_web(queue_limit=100, queue_share_per_owner=0.01)
    headers = {"Authorization": f"Bearer {new_token()}", "Idempotency-Key": "once"}
    first, again = [await web.client.post(SESSIONS, files=form(PICTURE), headers=headers) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["Idempotent-Replay"] == "true"


async def test_retry_takes_its_share(start_web: StartWeb) -> None:
    """A retry copies the photos and waits like an upload."""
    web = await start_web(queue_limit=100, queue_share_per_address=0.01)
    token = new_token()
    mine = {"Authorization": f"Bearer {token}"}
    session = (await upload(web, token)).json()
    assert (await web.client.post(f"{session['links']['self']}/cancel", headers=mine)).status_code == 200
    assert (await upload(web)).status_code == 201
    answer = await web.client.post(f"{session['links']['self']}/retry", headers=mine)
    assert_problem(answer, 429, "rate_limited")
    assert answer.json()["limit"] == "queue_share_per_address"


async def test_database_holds_no_address(start_web: StartWeb) -> None:
    """Only a keyed hash of it, which the session takes along."""
    web = await start_web()
    session = (await upload(web)).json()
    query = select(tables.sessions.c.address_hash).where(tables.sessions.c.id == session["session_id"])
    async with web.database.connections.read() as connection:
        kept = (await connection.execute(query)).scalar_one()
    assert kept == web.services.signer.address_hash("127.0.0.1")
    assert len(kept) == 32
