"""Webhooks: one for each end of a session, until the receiver accepts it."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select

from server.adapters.database import tables
from server.adapters.database.deliveries import Delivery
from server.domain.session import Session
from server.domain.tokens import token_hash
from server.reconciler import webhooks
from server.services import Services
from testkit.documents import text_of
from testkit.receivers import Received, Receiver, receiving
from tests.server.reconciler.conftest import SECRETS, MakeConfig, Process, calling
from tests.server.sessions.conftest import MINE, TOKEN, submit
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Status

BUSY = b"HTTP/1.1 503 Busy\r\n\r\n"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(webhooks, "pause_seconds", lambda attempts: 0.0)
    monkeypatch.setattr(webhooks, "SEND_SECONDS", 0.05)


@pytest.fixture
def process(config: MakeConfig, database_url: str, receiver: Receiver) -> Process:
    """Open the parts of a process that calls the receiver, on every database."""
    return calling(config, "webhook_url", receiver)


def verifier() -> Callable[..., None]:
    """Return the function of the documentation, which receivers copy."""
    [code] = re.findall(r"<!-- verify -->\n```python\n(.*?)```", text_of("docs/webhooks.md"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    verify: Callable[..., None] = names["verify"]
    return verify


def secret(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


async def ended(services: Services, **more: Any) -> Session:
    """Return a session that has been cancelled."""
    session = await submit(services, **more)
    await services.sessions.cancelling.cancel(session.id, MINE.owner)
    return session


async def delivered(services: Services, count: int, receiver: Receiver) -> list[Received]:
    """Run the chore again and again until the receiver has ``count`` requests."""
    deliver = services.reconciling.webhooks.deliver
    async with asyncio.timeout(20):
        while len(receiver.received) < count:
            await deliver()
            await asyncio.sleep(0.01)
    await deliver()
    return receiver.received


async def rows(services: Services) -> list[Any]:
    async with services.database.connections.read() as connection:
        return list((await connection.execute(select(tables.deliveries))).all())


async def test_end_is_delivered_once_and_signed(process: Process, receiver: Receiver) -> None:
    """By each secret, as the code of the documentation verifies it."""
    async with process() as services:
        running = await submit(services)
        session = await ended(services)
        [received] = await delivered(services, 1, receiver)
        await services.reconciling.webhooks.deliver()
        assert len(receiver.received) == 1
        assert running.status is Status.CREATED  # it has not ended, so nothing is said of it
    message = received.message
    assert message["type"] == "session.cancelled"
    assert (message["data"]["session_id"], message["data"]["status"], message["data"]["terminal"]) == (
        session.id,
        "cancelled",
        True,
    )
    assert "ticket" not in received.body.decode()
    assert message["data"]["links"]["input"].startswith("/api/tryon/files/")
    assert received.headers["webhook-id"] == f"{session.id}-2"
    verify = verifier()
    for key in SECRETS:
        verify(received.headers, received.body, secret(key))
    sent = int(received.headers["webhook-timestamp"])
    forgeries = (
        (received.body + b" ", SECRETS[0], sent),
        (received.body, b"x" * 24, sent),
        (received.body, SECRETS[0], sent + 900),
    )
    for body, key, now in forgeries:
        with pytest.raises(ValueError, match=r"signed|old"):
            verify(received.headers, body, secret(key), now=partial(int, now))


async def test_refused_webhook_is_repeated_with_same_id(process: Process, receiver: Receiver) -> None:
    """Until it is accepted, and not once more."""
    receiver.answers[:] = [BUSY, b"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", b"nonsense\n"]
    async with process() as services:
        session = await ended(services)
        found = await delivered(services, 4, receiver)
        [row] = await rows(services)
    assert {each.headers["webhook-id"] for each in found} == {f"{session.id}-2"}
    assert row.attempts == 4
    assert row.delivered_at is not None


async def test_webhook_survives_process_that_sends_it(process: Process, receiver: Receiver) -> None:
    """A process that dies between request and answer leaves the next to another."""
    receiver.answers[:] = [b"silence"]
    async with process() as services:
        session = await ended(services)
        sending = asyncio.create_task(services.reconciling.webhooks.deliver())
        await receiver.wait_for(1)
        sending.cancel()  # as SIGKILL ends it: nothing is recorded after the request
        await asyncio.wait({sending})
    async with process() as services:
        found = await delivered(services, 2, receiver)
    assert {each.headers["webhook-id"] for each in found} == {f"{session.id}-2"}


async def test_processes_at_once_send_one(
    process: Process, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever counts the attempt makes it."""
    monkeypatch.setattr(webhooks, "SEND_SECONDS", 60.0)  # a slow attempt is not made again meanwhile
    async with process() as services, process() as other:
        await ended(services)
        await asyncio.gather(*(each.reconciling.webhooks.deliver() for each in (services, other)))
        await services.reconciling.webhooks.deliver()
    assert len(receiver.received) == 1


async def test_unavailable_database_cuts_off_no_other_webhook(
    process: Process, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chore ends with the database's own error, which is logged in one line."""
    async with process() as services:
        refused, sent = await ended(services), await ended(services)
        begin = services.database.deliveries.begin

        async def failing(delivery: Delivery, *, pause_seconds: float) -> bool:
            if delivery.session_id == refused.id:
                raise Unavailable
            return await begin(delivery, pause_seconds=pause_seconds)

        monkeypatch.setattr(services.database.deliveries, "begin", failing)
        with pytest.raises(Unavailable):
            await services.reconciling.webhooks.deliver()
        noted = {row.session_id for row in await rows(services) if row.delivered_at is not None}
    assert noted == {sent.id}


async def test_unavailable_database_cuts_off_no_webhook_in_flight(
    process: Process, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails when the chore looks for more, while a receiver takes its time."""
    monkeypatch.setattr(webhooks, "LOOK_SECONDS", 0.0)
    async with process() as services:
        session = await ended(services)
        due, looks = services.database.deliveries.due, 0

        async def failing(**options: Any) -> Any:
            nonlocal looks
            looks += 1
            if looks > 1:
                raise Unavailable
            return await due(**options)

        monkeypatch.setattr(services.database.deliveries, "due", failing)
        with pytest.raises(Unavailable):
            await services.reconciling.webhooks.deliver()
        noted = {row.session_id for row in await rows(services) if row.delivered_at is not None}
    assert noted == {session.id}


async def test_silent_receiver_delays_only_its_own(
    process: Process, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of its webhooks are due first, and while they are being sent."""
    monkeypatch.setattr(webhooks, "SEND_SECONDS", 60.0)
    monkeypatch.setattr(webhooks, "AT_ONCE", 6)
    monkeypatch.setattr(webhooks, "AT_ONCE_EACH", 2)
    async with receiving(usual=b"silence") as silent, process() as services:
        for _ in range(8):
            await ended(services, webhook=silent.url)
        first = await ended(services)
        sending = asyncio.create_task(services.reconciling.webhooks.deliver())
        await silent.wait_for(2)
        await receiver.wait_for(1)
        second = await ended(services)  # while the silent ones are still in flight
        found = await receiver.wait_for(2)
        sending.cancel()
        await asyncio.wait({sending})
        assert len(silent.received) == 2
    assert [each.message["data"]["session_id"] for each in found] == [first.id, second.id]


async def test_failing_receiver_gets_one_webhook_at_a_time(
    process: Process, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no room from others, and has all again as soon as it accepts one."""
    monkeypatch.setattr(webhooks, "SEND_SECONDS", 60.0)
    async with process() as services:
        receiver.answers[:] = [BUSY]
        await ended(services)
        await services.reconciling.webhooks.deliver()
        receiver.answers[:] = [b"silence"]
        for _ in range(4):
            await ended(services)
        sending = asyncio.create_task(services.reconciling.webhooks.deliver())
        await receiver.wait_for(2)
        async with asyncio.timeout(5):
            while await waiting(services) > 3:  # the one that is being sent
                await asyncio.sleep(0.01)
        assert len(receiver.received) == 2
        sending.cancel()
        await asyncio.wait({sending})
        await services.reconciling.webhooks.deliver()
        assert len(receiver.received) == 5


async def waiting(services: Services) -> int:
    """Return how many webhooks have not been attempted."""
    return sum(row.attempts == 0 for row in await rows(services))


async def test_deleted_session_sends_nothing(process: Process, receiver: Receiver) -> None:
    """Its row goes with the session's others."""
    async with process() as services:
        session = await ended(services)
        await services.sessions.erasure.delete(session.id, token_hash(TOKEN))
        await services.reconciling.webhooks.deliver()
        assert await rows(services) == []
    assert receiver.received == []


async def test_retry_calls_the_address_of_its_original(process: Process, receiver: Receiver) -> None:
    """Also once the original's webhook was delivered."""
    async with process() as services:
        session = await ended(services)
        await delivered(services, 1, receiver)
        again, _ = await services.sessions.submissions.retry(session.id, MINE.owner, request_id=None)
        await services.sessions.cancelling.cancel(again.id, MINE.owner)
        found = await delivered(services, 2, receiver)
    assert found[1].message["data"]["retry_of"] == session.id


async def test_no_webhook_without_address(process: Process, receiver: Receiver) -> None:
    """Nothing is stored for a session that has none."""
    async with process(webhook_url=None, webhook_secrets=()) as services:
        await ended(services)
        await services.reconciling.webhooks.deliver()
        assert await rows(services) == []


async def test_private_address_is_tried_and_never_reached(process: Process, receiver: Receiver) -> None:
    """The session is not harmed, and the attempt counts."""
    async with process(webhook_private=False, webhook_url="https://127.0.0.1/") as services:
        await ended(services)
        await services.reconciling.webhooks.deliver()
        [row] = await rows(services)
    assert row.attempts >= 1
    assert row.delivered_at is None
    assert receiver.received == []
