"""`Idempotency-Key`: one key makes one session, even across retries and processes."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import text

from server.config.parsing import UploadRate
from server.domain.tokens import new_token
from server.web.api import in_flight
from testkit.locks import write_locked
from testkit.running import StartWeb, Web, until

SESSIONS: Final = "/api/tryon/sessions"


@pytest.fixture
def photo(photos: Path) -> bytes:
    return (photos / "photo.webp").read_bytes()


async def upload(
    web: Web, image: bytes, *, token: str | None, key: str | bytes | None = "key-1", name: str = "a.webp", **parts: Any
) -> httpx.Response:
    """Post a photo, and other parts, under a key."""
    headers: dict[str, Any] = {} if token is None else {"Authorization": f"Bearer {token}"}
    if key is not None:
        headers["Idempotency-Key"] = key
    files = {"image": (name, image, "image/webp")} | {n: (n, v, "image/png") for n, v in parts.items() if n != "params"}
    data = {"params": parts["params"]} if "params" in parts else None
    return await web.client.post(SESSIONS, headers=headers, files=files, data=data)


async def sessions_in(web: Web) -> int:
    """Return the number of stored sessions."""
    async with web.database.connections.engine.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM tryon_sessions"))).scalar_one())


def inputs_in(web: Web) -> list[Path]:
    """Return all stored files."""
    return [path for path in web.config.uploads_dir.rglob("*") if path.is_file()]


async def test_replay_returns_current_session(web: Web, photo: bytes) -> None:
    """The answer shows the session as it is now, and is marked as a replay."""
    token = new_token()
    first = await upload(web, photo, token=token)
    assert first.status_code == 201
    assert "idempotent-replay" not in first.headers
    session = await web.database.reader.get(first.json()["session_id"])
    assert session is not None
    await web.begin(session)
    again = await upload(web, photo, token=token)
    assert (again.status_code, again.headers["idempotent-replay"]) == (201, "true")
    assert again.headers["location"] == first.headers["location"]
    assert (again.json()["session_id"], again.json()["status"], again.json()["seq"]) == (session.id, "processing", 2)
    assert "client_token" not in again.json()
    assert (await sessions_in(web), len(inputs_in(web))) == (1, 1)


async def test_replay_compares_content_only(web: Web, photo: bytes) -> None:
    """The file's name, the boundary and white space in params do not count."""
    token = new_token()
    first = await upload(web, photo, token=token, params='{"size": "M"}')
    again = await upload(web, photo, token=token, name="other.bin", params='{ "size":"M" }')
    assert again.headers["idempotent-replay"] == "true"
    assert again.json()["session_id"] == first.json()["session_id"]


async def test_key_refuses_other_content(web: Web, photo: bytes, photos: Path) -> None:
    """Another photo, garment or params under a used key get 422."""
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


async def test_key_belongs_to_its_owner(web: Web, photo: bytes) -> None:
    """Two owners may use the same key."""
    answers = [await upload(web, photo, token=new_token()) for _ in range(2)]
    assert len({answer.json()["session_id"] for answer in answers}) == 2


async def test_other_key_makes_other_session(web: Web, photo: bytes) -> None:
    """Requests without a key are all different, too."""
    token = new_token()
    answers = [await upload(web, photo, token=token, key=key) for key in ("a", "b", None, None)]
    assert len({answer.json()["session_id"] for answer in answers}) == 4


async def test_key_requires_token(web: Web, photo: bytes) -> None:
    """A key without a token gets 422, and nothing is stored."""
    answer = await upload(web, photo, token=None)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_needs_token")
    assert (await sessions_in(web), inputs_in(web)) == (0, [])


@pytest.mark.parametrize("key", ["", "with space", "x" * 256, "schlüssel".encode(), b"tab\there"])
async def test_malformed_key_is_refused(web: Web, photo: bytes, key: str | bytes) -> None:
    """Empty, too long, with spaces or not ASCII."""
    answer = await upload(web, photo, token=new_token(), key=key)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_idempotency_key")


@pytest.mark.parametrize("key", ["x", "~" * 255, '"quoted"'])
async def test_visible_ascii_is_accepted(web: Web, photo: bytes, key: str) -> None:
    """Up to 255 characters of any visible ASCII."""
    assert (await upload(web, photo, token=new_token(), key=key)).status_code == 201


async def test_refused_photo_frees_its_key(web: Web, photo: bytes) -> None:
    """The same key works for the next attempt."""
    token = new_token()
    assert (await upload(web, photo[:2000], token=token)).json()["code"] == "unreadable_image"
    assert (await upload(web, photo, token=token)).status_code == 201


@pytest.mark.usefixtures("patient_limits")
async def test_replay_counts_against_rate_limit(start_web: StartWeb, photo: bytes) -> None:
    """A replay takes a place in the window as an upload does."""
    web = await start_web(upload_rate=UploadRate(2, 60))
    token = new_token()
    answers = [await upload(web, photo, token=token) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]


async def test_key_is_stored_as_hash_only(web: Web, photo: bytes) -> None:
    """A key may hold personal data."""
    await upload(web, photo, token=new_token(), key="order-of-Jane-Doe")
    async with web.database.connections.engine.connect() as connection:
        rows = (await connection.execute(text("SELECT * FROM tryon_sessions"))).all()
    assert "Jane" not in str(rows)


# -- at the same time ------------------------------------------------------------------


async def test_simultaneous_uploads_make_one_session(start_web: StartWeb, database_url: str, photo: bytes) -> None:
    """Twenty equal requests in one process get the same session."""
    web = await start_web()
    token = new_token()
    answers = await asyncio.gather(*(upload(web, photo, token=token) for _ in range(20)))
    await equal_answers(web, answers)


async def test_simultaneous_uploads_to_two_processes_make_one(
    start_web: StartWeb, database_url: str, photo: bytes
) -> None:
    """Across processes the database's unique key decides."""
    here, there = await start_web(), await start_web()
    token = new_token()
    answers = await asyncio.gather(*(upload(web, photo, token=token) for web in (here, there) * 10))
    await equal_answers(here, answers)


async def equal_answers(web: Web, answers: list[httpx.Response]) -> None:
    """Check that all answers show one session, of which one request is the maker."""
    assert {answer.status_code for answer in answers} == {201}
    bodies = [answer.json() for answer in answers]
    for body in bodies:
        del body["links"], body["inputs"][0]["link"]  # signed at its own moment
        del body["queue_position"], body["eta_seconds"]
    assert all(body == bodies[0] for body in bodies)
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert sum("idempotent-replay" not in answer.headers for answer in answers) == 1
    assert (await sessions_in(web), len(inputs_in(web))) == (1, 1)


async def test_simultaneous_different_uploads_make_one_session(web: Web, photo: bytes) -> None:
    """One is accepted; the others get 422."""
    token = new_token()
    answers = await asyncio.gather(*(upload(web, photo, token=token, params=f'{{"n": {n}}}') for n in range(20)))
    assert sorted(answer.status_code for answer in answers) == [201, *[422] * 19]
    assert (await sessions_in(web), len(inputs_in(web))) == (1, 1)


async def test_replay_is_409_when_first_is_slow(web: Web, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request learns when to retry, and the first one goes on."""
    monkeypatch.setattr(in_flight, "IN_FLIGHT_SECONDS", 0.2)
    token = new_token()
    async with write_locked(web.config.database):
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


async def test_waiting_replay_returns_first_session(web: Web, photo: bytes) -> None:
    """A request that waits for the first one gets its session."""
    token = new_token()
    async with write_locked(web.config.database):
        first = asyncio.create_task(upload(web, photo, token=token))
        await until(lambda: inputs_in(web))
        second = asyncio.create_task(upload(web, photo, token=token))
    answers = [await first, await second]
    assert len({answer.json()["session_id"] for answer in answers}) == 1


async def test_key_does_not_wait_for_other_key(web: Web, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay is answered while an upload under another key is stuck."""
    token = new_token()
    session = (await upload(web, photo, token=token, key="done")).json()["session_id"]
    async with write_locked(web.config.database):
        first = asyncio.create_task(upload(web, photo, token=token, key="stuck"))
        await until(lambda: len(inputs_in(web)) == 2)
        assert (await upload(web, photo, token=token, key="done")).json()["session_id"] == session
        assert not first.done()
    assert (await first).status_code == 201


async def test_disconnected_client_frees_its_key(web: Web, photo: bytes) -> None:
    """A phone that loses the network repeats its request under the same key."""
    token = new_token()
    async with write_locked(web.config.database):
        first = asyncio.create_task(upload(web, photo, token=token))
        await until(lambda: inputs_in(web))
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
    answer = await upload(web, photo, token=token)
    assert answer.status_code == 201
    assert await sessions_in(web) == 1


# -- how long --------------------------------------------------------------------------


async def test_key_lives_as_long_as_session(web: Web, photo: bytes) -> None:
    """It works after the session's end, until the session is deleted."""
    token = new_token()
    first = (await upload(web, photo, token=token)).json()["session_id"]
    session = await web.database.reader.get(first)
    assert session is not None
    await web.complete(await web.begin(session))
    assert (await upload(web, photo, token=token)).json()["session_id"] == first  # also after its end
    await web.services.sessions.erasure.delete(first, session.owner)
    answer = await upload(web, photo, token=token)
    assert "idempotent-replay" not in answer.headers
    assert answer.json()["session_id"] != first


async def test_key_is_free_after_expiry(web: Web, photo: bytes) -> None:
    """A session that is not readable any more holds its key until it is erased."""
    token = new_token()
    first = (await upload(web, photo, token=token)).json()["session_id"]
    await web.database.writer.mark_deleted(first, id_hash=str)
    answer = await upload(web, photo, token=token)
    while answer.status_code == 409:  # unreadable already, not yet erased
        await web.services.reconciling.reconciler.maintain()
        answer = await upload(web, photo, token=token)
    assert answer.status_code == 201
    assert answer.json()["session_id"] != first
