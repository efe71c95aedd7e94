"""`Idempotency-Key`: whatever a client, a network or a second process does, one key
makes one session.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import text

from server.config.parsing import UploadRate
from server.domain.tokens import new_token
from server.web.api import in_flight
from testkit.running import Web, until
from tests.server.web.conftest import StartWeb

SESSIONS: Final = "/api/tryon/sessions"


@pytest.fixture
def photo(photos: Path) -> bytes:
    return (photos / "photo.webp").read_bytes()


async def upload(
    web: Web, image: bytes, *, token: str | None, key: str | bytes | None = "key-1", name: str = "a.webp", **parts: Any
) -> httpx.Response:
    headers: dict[str, Any] = {} if token is None else {"Authorization": f"Bearer {token}"}
    if key is not None:
        headers["Idempotency-Key"] = key
    files = {"image": (name, image, "image/webp")} | {n: (n, v, "image/png") for n, v in parts.items() if n != "params"}
    data = {"params": parts["params"]} if "params" in parts else None
    return await web.client.post(SESSIONS, headers=headers, files=files, data=data)


async def sessions_in(web: Web) -> int:
    async with web.database.connections.engine.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM tryon_sessions"))).scalar_one())


def inputs_in(web: Web) -> list[Path]:
    return [path for path in web.config.uploads_dir.rglob("*") if path.is_file()]


async def test_the_same_request_again_answers_with_the_session_as_it_is_now(web: Web, photo: bytes) -> None:
    token = new_token()
    first = await upload(web, photo, token=token)
    assert first.status_code == 201
    assert "idempotent-replay" not in first.headers
    session = await web.database.reading.get(first.json()["session_id"])
    assert session is not None
    await web.begin(session)
    again = await upload(web, photo, token=token)
    assert (again.status_code, again.headers["idempotent-replay"]) == (201, "true")
    assert again.headers["location"] == first.headers["location"]
    assert (again.json()["session_id"], again.json()["status"], again.json()["seq"]) == (session.id, "processing", 2)
    assert "client_token" not in again.json()
    assert (await sessions_in(web), len(inputs_in(web))) == (1, 1)


async def test_what_counts_is_what_the_parts_hold(web: Web, photo: bytes) -> None:
    """Not the file's name, the boundary or the white space in params."""
    token = new_token()
    first = await upload(web, photo, token=token, params='{"size": "M"}')
    again = await upload(web, photo, token=token, name="other.bin", params='{ "size":"M" }')
    assert again.headers["idempotent-replay"] == "true"
    assert again.json()["session_id"] == first.json()["session_id"]


async def test_other_content_under_the_same_key_is_refused(web: Web, photo: bytes, photos: Path) -> None:
    token = new_token()
    garment = (photos / "garment.png").read_bytes()
    first = await upload(web, photo, token=token, params='{"size": "M"}')
    assert first.status_code == 201
    for answer in (
        await upload(web, (photos / "photo.jpg").read_bytes(), token=token, params='{"size": "M"}'),
        await upload(web, photo, token=token, params='{"size": "L"}'),
        await upload(web, photo, token=token),
        await upload(web, photo, token=token, params='{"size": "M"}', garment=garment),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert (await sessions_in(web), len(inputs_in(web))) == (1, 1)


async def test_keys_belong_to_their_client(web: Web, photo: bytes) -> None:
    answers = [await upload(web, photo, token=new_token()) for _ in range(2)]
    assert len({answer.json()["session_id"] for answer in answers}) == 2


async def test_another_key_makes_another_session(web: Web, photo: bytes) -> None:
    token = new_token()
    answers = [await upload(web, photo, token=token, key=key) for key in ("a", "b", None, None)]
    assert len({answer.json()["session_id"] for answer in answers}) == 4


async def test_a_key_needs_a_token_to_belong_to(web: Web, photo: bytes) -> None:
    answer = await upload(web, photo, token=None)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_needs_token")
    assert (await sessions_in(web), inputs_in(web)) == (0, [])


@pytest.mark.parametrize("key", ["", "with space", "x" * 256, "schlüssel".encode(), b"tab\there"])
async def test_a_malformed_key_is_refused(web: Web, photo: bytes, key: str | bytes) -> None:
    answer = await upload(web, photo, token=new_token(), key=key)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_idempotency_key")


@pytest.mark.parametrize("key", ["x", "~" * 255, '"quoted"'])
async def test_any_visible_ascii_is_a_key(web: Web, photo: bytes, key: str) -> None:
    assert (await upload(web, photo, token=new_token(), key=key)).status_code == 201


async def test_a_refused_photo_leaves_its_key_free(web: Web, photo: bytes) -> None:
    token = new_token()
    assert (await upload(web, photo[:2000], token=token)).json()["code"] == "unreadable_image"
    assert (await upload(web, photo, token=token)).status_code == 201


async def test_replays_count_against_the_rate_limit(start_web: StartWeb, photo: bytes) -> None:
    web = await start_web(upload_rate=UploadRate(2, 60))
    token = new_token()
    answers = [await upload(web, photo, token=token) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]


async def test_the_database_keeps_no_key_as_it_was_sent(web: Web, photo: bytes) -> None:
    await upload(web, photo, token=new_token(), key="order-of-Jane-Doe")
    async with web.database.connections.engine.connect() as connection:
        rows = (await connection.execute(text("SELECT * FROM tryon_sessions"))).all()
    assert "Jane" not in str(rows)


# -- at the same time ------------------------------------------------------------------


async def test_twenty_equal_uploads_at_once_make_one_session(
    start_web: StartWeb, database_url: str, photo: bytes
) -> None:
    web = await start_web()
    token = new_token()
    answers = await asyncio.gather(*(upload(web, photo, token=token) for _ in range(20)))
    await equal_answers(web, answers)


async def test_also_when_they_are_spread_over_two_processes(
    start_web: StartWeb, database_url: str, photo: bytes
) -> None:
    """The processes know nothing of each other: the database's unique key decides."""
    here, there = await start_web(), await start_web()
    token = new_token()
    answers = await asyncio.gather(*(upload(web, photo, token=token) for web in (here, there) * 10))
    await equal_answers(here, answers)


async def equal_answers(web: Web, answers: list[httpx.Response]) -> None:
    assert {answer.status_code for answer in answers} == {201}
    bodies = [answer.json() for answer in answers]
    for body in bodies:
        del body["links"]  # signed at its own moment
        del body["queue_position"], body["eta_seconds"]
    assert all(body == bodies[0] for body in bodies)
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert sum("idempotent-replay" not in answer.headers for answer in answers) == 1
    assert (await sessions_in(web), len(inputs_in(web))) == (1, 1)


async def test_twenty_different_uploads_under_one_key_make_one_session(web: Web, photo: bytes) -> None:
    token = new_token()
    answers = await asyncio.gather(*(upload(web, photo, token=token, params=f'{{"n": {n}}}') for n in range(20)))
    assert sorted(answer.status_code for answer in answers) == [201, *[422] * 19]
    assert (await sessions_in(web), len(inputs_in(web))) == (1, 1)


@contextlib.contextmanager
def nobody_can_write(web: Web) -> Iterator[None]:
    """Hold SQLite's write lock: an upload gets as far as its INSERT and waits there."""
    path = web.config.database.removeprefix("sqlite+aiosqlite:///")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


async def test_who_waits_too_long_for_the_first_is_told_to_come_back(
    web: Web, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_flight, "IN_FLIGHT_SECONDS", 0.2)
    token = new_token()
    with nobody_can_write(web):
        first = asyncio.create_task(upload(web, photo, token=token))
        await until(lambda: inputs_in(web))  # its file is stored; its row is not
        second = await upload(web, photo, token=token)
        assert (second.status_code, second.json()["code"]) == (409, "idempotency_in_flight")
        assert second.json()["retryable"] is True
        assert int(second.headers["retry-after"]) > 0
        assert not first.done()
    assert (await first).status_code == 201
    third = await upload(web, photo, token=token)
    assert (third.status_code, third.headers["idempotent-replay"]) == (201, "true")
    monkeypatch.undo()
    assert in_flight.IN_FLIGHT_SECONDS == 5


async def test_who_waits_gets_the_answer_of_the_first(web: Web, photo: bytes) -> None:
    token = new_token()
    with nobody_can_write(web):
        first = asyncio.create_task(upload(web, photo, token=token))
        await until(lambda: inputs_in(web))
        second = asyncio.create_task(upload(web, photo, token=token))
    answers = [await first, await second]
    assert len({answer.json()["session_id"] for answer in answers}) == 1


async def test_a_key_does_not_wait_for_another(web: Web, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    token = new_token()
    session = (await upload(web, photo, token=token, key="done")).json()["session_id"]
    with nobody_can_write(web):
        first = asyncio.create_task(upload(web, photo, token=token, key="stuck"))
        await until(lambda: len(inputs_in(web)) == 2)
        assert (await upload(web, photo, token=token, key="done")).json()["session_id"] == session
        assert not first.done()
    assert (await first).status_code == 201


async def test_a_client_that_leaves_frees_its_key(web: Web, photo: bytes) -> None:
    """A phone that loses the network in the middle asks again under the same key."""
    token = new_token()
    with nobody_can_write(web):
        first = asyncio.create_task(upload(web, photo, token=token))
        await until(lambda: inputs_in(web))
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
    answer = await upload(web, photo, token=token)
    assert answer.status_code == 201
    assert await sessions_in(web) == 1


# -- how long --------------------------------------------------------------------------


async def test_a_key_lives_as_long_as_its_session(web: Web, photo: bytes) -> None:
    token = new_token()
    first = (await upload(web, photo, token=token)).json()["session_id"]
    session = await web.database.reading.get(first)
    assert session is not None
    await web.complete(await web.begin(session))
    assert (await upload(web, photo, token=token)).json()["session_id"] == first  # also after its end
    await web.services.sessions.erasure.delete(first, session.owner)
    answer = await upload(web, photo, token=token)
    assert "idempotent-replay" not in answer.headers
    assert answer.json()["session_id"] != first


async def test_a_key_is_free_again_when_its_session_has_expired(web: Web, photo: bytes) -> None:
    token = new_token()
    first = (await upload(web, photo, token=token)).json()["session_id"]
    await web.database.writing.mark_deleted(first, id_hash=str)
    answer = await upload(web, photo, token=token)
    while answer.status_code == 409:  # unreadable already, not yet erased
        await web.services.reconciling.reconciler.maintain()
        answer = await upload(web, photo, token=token)
    assert answer.status_code == 201
    assert answer.json()["session_id"] != first


async def test_who_comes_between_one_request_and_the_next_with_its_key_waits_too() -> None:
    """The first is done, the second has not yet been given its turn: at that moment
    nobody holds the lock.
    """
    keys = in_flight.KeysInFlight()
    inside = most = 0

    async def request() -> None:
        nonlocal inside, most
        async with keys.serialized("owner", "key"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    async with asyncio.TaskGroup() as group:
        async with keys.serialized("owner", "key"):
            group.create_task(request())
            await asyncio.sleep(0)  # it waits
        await asyncio.gather(request(), request())
    assert most == 1
    assert not len(keys)
