"""Steps that several tests of the reconciler share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from server.config.settings import Config
from server.domain.session import Session
from server.reconciler import timing
from server.services import Services, open_services
from testkit.receivers import Receiver, receiving
from testkit.running import PHOTO, Web, running_web
from tests.server.sessions.conftest import row
from tryon.protocol.states import Status

MakeConfig = Callable[..., Config]
Process = Callable[..., contextlib.AbstractAsyncContextManager[Services]]
SECRETS = (b"new" * 8, b"old" * 8)
Start = Callable[..., contextlib.AbstractAsyncContextManager[Web]]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the reconciler's time unit to a tenth of the product's.

    A pass has time enough on any machine: what one leaves to the next is tested apart.
    """
    monkeypatch.setattr(timing, "PASS_SECONDS", 20.0)
    monkeypatch.setattr(timing, "REMOVAL_SECONDS", 40.0)
    monkeypatch.setattr(timing, "RECONCILE_SECONDS", 0.2)
    monkeypatch.setattr(timing, "UNQUEUED_SECONDS", 0.5)
    monkeypatch.setattr(timing, "QUEUEING_SECONDS", 0.1)


@pytest.fixture
def silent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first call to a silent Redis be the only one that waits."""
    monkeypatch.setattr("server.adapters.redis.breaker.PAUSE_SECONDS", 60.0)
    monkeypatch.setattr("server.adapters.redis.breaker.LATE_SECONDS", 60.0)


@pytest.fixture
def start(config: MakeConfig, database_url: str) -> Start:
    """Start web processes, each in a context, on every database."""

    def begin(**settings: Any) -> contextlib.AbstractAsyncContextManager[Web]:
        return running_web(config(**settings))

    return begin


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


def calling(config: MakeConfig, setting: str, receiver: Receiver) -> Process:
    """Return what opens the parts of a process that calls the receiver.

    ``setting``: the one that takes the receiver's address.
    """

    @contextlib.asynccontextmanager
    async def open_process(**settings: Any) -> AsyncIterator[Services]:
        usual = {setting: receiver.url, "webhook_secrets": SECRETS, "webhook_private": True}
        async with open_services(config(**(usual | settings))) as services:
            yield services

    return open_process


async def until_status(services: Services, session: Session, status: Status, *, seconds: float = 8) -> Session:
    """Wait for a state of the session, and return it."""
    async with asyncio.timeout(seconds):
        while (found := await row(services, session)).status is not status:
            await asyncio.sleep(0.02)
    return found


async def submitted(services: Services) -> Session:
    """Submit a session."""
    return await services.sessions.submissions.submit(owner="o" * 64, inputs=[PHOTO], params={}, request_id=None)
