"""Deleting a session: nothing of it stays, and the receipt can be verified."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import text

from server.adapters.redis.queue import job_id
from server.domain.stored_files import NewFile
from server.domain.tokens import new_token
from testkit.following import NOT_FOUND, TRANSPORTS, follow
from testkit.running import StartWeb, Web, until
from tests.server.web.api.calls import do, failed, files_of, traces, with_garment


async def test_delete_leaves_nothing(start_web: StartWeb, database_url: str) -> None:
    """No file, row or key of a completed session with progress and a job is left."""
    web = await start_web()
    token = new_token()
    session = await with_garment(web, token)
    claim = await web.begin(session)
    await web.services.queue.enqueue(session.id, 1, 1, score_ms=0)
    async with asyncio.timeout(10):  # a report is lost if Redis is slow, as it may be on a busy machine
        while not await web.services.bus.last_progress([session.id]):
            await web.services.sessions.claims.report(claim, 0.5, "rendering")
            await asyncio.sleep(0.005)
    await web.complete(claim)
    assert len(await traces(web, session.id)) >= 8
    assert (await do(web, "delete", session.id, token)).status_code == 200
    assert await traces(web, session.id) == []
    assert files_of(web) == []


async def test_delete_removes_waiting_job(web: Web) -> None:
    """The queue holds no job of a deleted session."""
    session, token = await web.submit()
    assert any(job_id(session.id, 0, 1) in trace for trace in await traces(web, session.id))
    await do(web, "delete", session.id, token)
    assert await traces(web, session.id) == []


async def test_delete_takes_all_retries(web: Web) -> None:
    """The whole chain goes from whichever session, other sessions stay."""
    first, token = await failed(web)
    second = (await do(web, "retry", first.id, token)).json()["session_id"]
    row = await web.database.reader.get(second)
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
    """Return the bytes that the signature covers, as docs/protocol.md defines them."""
    body = {name: receipt[name] for name in ("session_id", "reason", "deleted_at", "files", "upstream")}
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def unbase64(value: str) -> bytes:
    """Decode base64url without padding."""
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))


async def test_receipt_verifies_with_public_key(web: Web) -> None:
    """It names every file by size and hash; a changed receipt does not verify."""
    token = new_token()
    session = await with_garment(web, token)
    await web.complete(await web.begin(session))
    links = (await do(web, "get", session.id, token)).json()["links"]
    stored = {
        role: (await web.client.get(links[name])).content
        for role, name in (("person", "input"), ("garment", "garment"), ("result", "output"))
    }
    answer = await do(web, "delete", session.id, token)
    receipt = answer.json()
    assert set(receipt) == {"session_id", "reason", "deleted_at", "files", "upstream", "key_id", "signature"}
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


async def test_receipt_outlives_secret_rotation(start_web: StartWeb) -> None:
    """A receipt of the older key still verifies; the newer key signs."""
    before = await start_web()
    session, token = await before.submit()
    receipt = (await do(before, "delete", session.id, token)).json()
    after = await start_web(secret_keys=("new-new-new-new-new-new-new-new-new", *before.config.secret_keys))
    keys = {k["key_id"]: k["public_key"] for k in (await after.client.get("/api/tryon/receipt-key")).json()["keys"]}
    assert len(keys) == 2
    public = Ed25519PublicKey.from_public_bytes(unbase64(keys[receipt["key_id"]]))
    public.verify(unbase64(receipt["signature"]), canonical(receipt))
    assert next(iter(keys)) != receipt["key_id"]  # the first signs


async def test_delete_notifies_connected_client(web: Web) -> None:
    """The client gets the reason `deleted` and must not reconnect."""
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next()
        await do(web, "delete", session.id, token)
        assert await client.rest() == 4510
    assert (client.frames[-1]["reason"], client.frames[-1]["reconnect"]) == ("deleted", False)


async def test_delete_notifies_client_of_other_process(start_web: StartWeb, database_url: str) -> None:
    """A client on another web process is notified, too."""
    here, there = await start_web(), await start_web()
    session, token = await here.submit()
    async with there.follow(session.id, token) as client:
        await client.next()
        await do(here, "delete", session.id, token)
        assert await client.rest() == 4510


async def test_deleted_session_is_404_everywhere(web: Web) -> None:
    """Every verb, link and transport answers as if it had never been."""
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


async def test_simultaneous_deletes_give_one_receipt(start_web: StartWeb, database_url: str) -> None:
    """The others get 404."""
    here, there = await start_web(), await start_web()
    session, token = await failed(here)
    answers = await asyncio.gather(*(do(web, "delete", session.id, token) for web in (here, there) * 2))
    assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404]


async def test_delete_notifies_when_storage_fails(web: Web) -> None:
    """The session is hidden and its client notified at once; the files go later."""
    session, token = await web.submit()
    photo = web.config.uploads_dir / session.inputs[0].key
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


async def test_worker_loses_deleted_session(web: Web) -> None:
    """Its lease is lost, and its late result is refused and deleted."""
    session, token = await web.submit()
    claim = await web.begin(session)
    await do(web, "delete", session.id, token)
    assert await web.services.sessions.claims.renew(claim) == "lost"
    assert not await web.services.sessions.claims.complete(claim, [NewFile(b"late result")])
    assert files_of(web) == []
    assert await traces(web, session.id) == []


async def test_late_progress_leaves_no_key(web: Web) -> None:
    """A report on a deleted session writes nothing to Redis."""
    session, token = await web.submit()
    claim = await web.begin(session)
    await do(web, "delete", session.id, token)
    await web.services.sessions.claims.report(claim, 0.9, "rendering")
    await until(lambda: claim.reports.timer is None)
    assert await traces(web, session.id) == []
