"""A follower shows every transition once and in order, whatever the network does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from server.config.settings import Config
from testkit.running import Web, running_web, until
from tryon.client.connection import Access
from tryon.client.following import Following
from tryon.client.http import HttpNetwork
from tryon.client.state import Update
from tryon.protocol.backoff import TRANSPORTS

MakeConfig = Callable[..., Config]
SECONDS = 15


@pytest.fixture
async def web(config: MakeConfig) -> AsyncIterator[Web]:
    async with running_web(config()) as running:
        yield running


@pytest.fixture
async def network(web: Web) -> AsyncIterator[HttpNetwork]:
    network = HttpNetwork(f"http://127.0.0.1:{web.port}", trust_env=False)
    yield network
    await network.close()


def following(
    network: HttpNetwork, session_id: str, token: str, transports: tuple[str, ...] = TRANSPORTS, *, since: int = 0
) -> Following:
    return Following(
        network, session_id, Access(token=token), since=since, transports=transports, chance=random.Random(1)
    )


class Watcher:
    """A follower in a task, and the updates it has yielded."""

    def __init__(self, followed: Following) -> None:
        self.updates: list[Update] = []
        self.task = asyncio.create_task(self._run(followed))

    async def _run(self, followed: Following) -> None:
        async with aclosing(followed.updates()) as updates:
            async for update in updates:
                self.updates.append(update)

    @property
    def seqs(self) -> list[int]:
        return [update.event.seq for update in self.updates if update.event is not None]

    async def finished(self) -> list[int]:
        async with asyncio.timeout(SECONDS):
            await self.task
        return self.seqs


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_following_yields_each_transition(web: Web, network: HttpNetwork, transport: str) -> None:
    """Show created, processing and completed, and end, over each transport alone."""
    session, token = await web.submit()
    watcher = Watcher(following(network, session.id, token, (transport,)))
    await until(lambda: watcher.seqs == [1])
    claim = await web.begin(session)
    await until(lambda: watcher.seqs == [1, 2])
    await web.complete(claim)
    assert await watcher.finished() == [1, 2, 3]
    assert [update.status for update in watcher.updates if update.event] == ["created", "processing", "completed"]
    assert watcher.updates[-1].session.links.output
    assert {update.transport for update in watcher.updates} == {transport}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_following_catches_up_after_the_end(web: Web, network: HttpNetwork, transport: str) -> None:
    """Show what was missed, and only that, to a client that comes late."""
    session, token = await web.submit()
    await web.complete(await web.begin(session))
    watcher = Watcher(following(network, session.id, token, (transport,), since=1))
    assert await watcher.finished() == [2, 3]
    assert watcher.updates[0].status == "processing"
