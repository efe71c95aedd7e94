"""All sessions of an owner in one loop, whatever the network does."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from server.config.settings import Config
from server.domain.tokens import new_token
from testkit.proxy import running_proxy
from testkit.running import Web, running_web, until
from tryon.client.connection import Access
from tryon.client.http import HttpNetwork
from tryon.client.problems import Problem
from tryon.client.watching import WATCH_TRANSPORTS, Erased, Watching

MakeConfig = Callable[..., Config]


@pytest.fixture
async def web(config: MakeConfig) -> AsyncIterator[Web]:
    async with running_web(config()) as running:
        yield running


class Watcher:
    """A loop over all sessions in a task, and what it has yielded."""

    def __init__(self) -> None:
        self.seqs: defaultdict[str, list[int]] = defaultdict(list)
        self.ended: list[str] = []
        self.erased: list[tuple[str, str]] = []
        self.transports: set[str] = set()

    async def read(self, watching: Watching) -> None:
        async with aclosing(watching.updates()) as updates:
            async for update in updates:
                if isinstance(update, Erased):
                    self.erased.append((update.session_id, update.reason))
                    continue
                self.transports.add(update.transport)
                if update.event is not None:
                    self.seqs[update.session.session_id].append(update.event.seq)
                if update.terminal:
                    self.ended.append(update.session.session_id)


@asynccontextmanager
async def watcher(port: int, token: str, *transports: str) -> AsyncIterator[Watcher]:
    network = HttpNetwork(f"http://127.0.0.1:{port}", trust_env=False)
    watcher = Watcher()
    watching = Watching(
        network, Access(token=token), transports=transports or WATCH_TRANSPORTS, chance=random.Random(1)
    )
    task = asyncio.create_task(watcher.read(watching))
    try:
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await network.close()


@pytest.mark.parametrize("transport", WATCH_TRANSPORTS)
async def test_every_transition_of_every_session_comes_once(web: Web, transport: str) -> None:
    """Of sessions that live, of one that is made later, and of one that is erased."""
    token = new_token()
    old, _ = await web.submit(token)
    erased, _ = await web.submit(token)
    async with watcher(web.port, token, transport) as seen:
        await until(lambda: len(seen.seqs) == 2)
        new, _ = await web.submit(token)
        await until(lambda: new.id in seen.seqs)
        for session in (old, new):
            await web.complete(await web.begin(session))
        await web.client.delete(f"/api/tryon/sessions/{erased.id}", headers={"Authorization": f"Bearer {token}"})
        await until(lambda: len(seen.ended) == 2 and seen.erased, seconds=30)
        assert dict(seen.seqs) == {old.id: [1, 2, 3], new.id: [1, 2, 3], erased.id: [1]}
        assert seen.erased == [(erased.id, "erased" if transport == "poll" else "deleted")]
        assert seen.transports == {transport}


@pytest.mark.parametrize("transport", ["ws", "sse"])
async def test_lost_connections_lose_no_transition(web: Web, transport: str) -> None:
    """What happens while the connection is cut is in the next snapshots."""
    token = new_token()
    one, _ = await web.submit(token)
    two, _ = await web.submit(token)
    async with running_proxy(web.port) as proxy, watcher(proxy.port, token, transport) as seen:
        await until(lambda: len(seen.seqs) == 2)
        claim = await web.begin(one)
        await until(lambda: seen.seqs[one.id] == [1, 2])
        proxy.cut()
        await web.complete(claim)
        await web.complete(await web.begin(two))
        three, _ = await web.submit(token)
        await until(lambda: seen.seqs[three.id] == [1], seconds=30)
        assert dict(seen.seqs) == {one.id: [1, 2, 3], two.id: [1, 2, 3], three.id: [1]}
        assert sorted(seen.ended) == sorted([one.id, two.id])


@pytest.mark.parametrize("transport", WATCH_TRANSPORTS)
async def test_session_of_an_absence_comes_whole(web: Web, transport: str) -> None:
    """It begins and ends unseen by the client; the one before it comes once."""
    token = new_token()
    before, _ = await web.submit(token)
    async with running_proxy(web.port) as proxy, watcher(proxy.port, token, transport) as seen:
        await until(lambda: before.id in seen.seqs)
        await web.complete(await web.begin(before))
        await until(lambda: seen.ended == [before.id], seconds=30)
        await proxy.refuse()
        proxy.cut()
        missed, _ = await web.submit(token)
        await web.complete(await web.begin(missed))
        await proxy.start()
        await until(lambda: len(seen.ended) == 2, seconds=30)
        after, _ = await web.submit(token)
        await until(lambda: after.id in seen.seqs, seconds=30)
        assert dict(seen.seqs) == {before.id: [1, 2, 3], missed.id: [1, 2, 3], after.id: [1]}
        assert seen.ended == [before.id, missed.id]


async def test_refused_client_raises_a_problem(web: Web) -> None:
    """A malformed token is refused for good."""
    network = HttpNetwork(f"http://127.0.0.1:{web.port}", trust_env=False)
    watching = Watching(network, Access(token="short"), chance=random.Random(1))
    with pytest.raises(Problem) as refused:
        async for _ in watching.updates():
            pass
    assert refused.value.code == "invalid_token"
    await network.close()
