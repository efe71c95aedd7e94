"""Cancelling a session that waits, runs or has ended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import httpx
import pytest

from server.domain.session import Session
from server.domain.stored_files import NewFile
from server.domain.tokens import new_token
from server.sessions.claims import Claim
from testkit.fixtures import StartStack
from testkit.following import follow
from testkit.running import StartWeb, Web
from tests.server.web.api.calls import bearer, do, files_of
from tryon.protocol.paths import SESSIONS


async def test_cancel_ends_waiting_session(web: Web) -> None:
    """Its job leaves the queue, and no worker can claim it."""
    session, token = await web.submit()
    answer = await do(web, "cancel", session.id, token)
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["seq"], answer.json()["terminal"]) == ("cancelled", 2, True)
    assert not await web.services.queue.contains(session.id, 0, 1)
    assert await web.services.sessions.claims.begin(session.id, worker="late") is None


async def test_cancel_asks_running_session_to_stop(web: Web) -> None:
    """The worker learns of it when it renews its lease; asking twice is harmless."""
    session, token = await web.submit()
    claim = await web.begin(session)
    for _ in range(2):  # asking again is no harm
        answer = await do(web, "cancel", session.id, token)
        assert (answer.status_code, answer.json()["status"]) == (202, "processing")
    assert await web.services.sessions.claims.renew(claim) == "cancelled"
    assert await web.services.sessions.claims.requeue(claim, burnt=False, reason="cancelled")
    assert (await do(web, "get", session.id, token)).json()["status"] == "cancelled"


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_cancel_keeps_ended_session(web: Web, status: str) -> None:
    """The answer is the session as it ended."""
    session, token = await web.submit()
    if status == "cancelled":
        await do(web, "cancel", session.id, token)
    elif status == "completed":
        await web.complete(await web.begin(session))
    else:
        await web.services.sessions.claims.fail(await web.begin(session), "mock_failure")
    before = await web.database.reader.get(session.id)
    answer = await do(web, "cancel", session.id, token)
    assert (answer.status_code, answer.json()["status"]) == (200, status)
    assert await web.database.reader.get(session.id) == before


async def running_and_asked_to_stop(web: Web) -> tuple[Session, Claim]:
    """Return a running session that was asked to stop, and its claim."""
    session, token = await web.submit()
    claim = await web.begin(session)
    assert (await do(web, "cancel", session.id, token)).status_code == 202
    return session, claim


async def test_cancel_request_refuses_result(web: Web) -> None:
    """The worker's late result is refused, and its file is deleted."""
    session, claim = await running_and_asked_to_stop(web)
    before = set(files_of(web))
    assert not await web.services.sessions.claims.complete(claim, [NewFile(b"result")])
    now = await web.database.reader.get(session.id)
    assert now is not None
    assert (now.status, now.outputs) == ("processing", [])
    assert set(files_of(web)) == before  # the refused output is gone again


@pytest.mark.parametrize("burnt", [False, True])
async def test_cancel_request_ends_requeued_session(web: Web, burnt: bool) -> None:
    """A requeue of a session that was asked to stop cancels it."""
    session, claim = await running_and_asked_to_stop(web)
    assert await web.services.sessions.claims.requeue(claim, burnt=burnt, reason="drain")
    now = await web.database.reader.get(session.id)
    assert now is not None
    assert now.status == "cancelled"


async def test_cancel_request_outlives_worker(start_web: StartWeb) -> None:
    """The reconciler cancels the session when the lost worker's lease ends."""
    web = await start_web(lease_seconds=0.2)
    session, _ = await running_and_asked_to_stop(web)  # whose worker is never heard of again
    async with asyncio.timeout(10):
        while (now := await web.database.reader.get(session.id)) and not now.status.terminal:
            await asyncio.sleep(0.02)
    assert now is not None
    assert now.status == "cancelled"


async def test_cancel_and_claim_agree_when_simultaneous(start_web: StartWeb, database_url: str) -> None:
    """Whichever commits first, the session ends cancelled, at once or by its worker."""
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


async def test_running_mock_stops_within_200_ms(stack: StartStack, photos: Path) -> None:
    """The mock processor notices the request in the middle of its work."""
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
    assert min(seconds) < 2, seconds  # 0.03 on an idle machine; its heartbeat alone would come after seconds
