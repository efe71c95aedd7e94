"""A follower shows every transition once and in order, whatever the network does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from server.config.settings import Config
from server.domain.tokens import new_token
from testkit.cluster import running_cluster
from testkit.photos import small
from testkit.proxy import Proxy, running_proxy
from testkit.running import Web, running_web, until
from tryon.client.api import AsyncTryOn
from tryon.client.connection import Access, Lost
from tryon.client.following import Following
from tryon.client.http import HttpNetwork, HttpStream
from tryon.client.network import Answer, NoAnswer, SocketRefused
from tryon.client.problems import Problem
from tryon.client.state import Update
from tryon.client.websocket import WebSocket
from tryon.protocol.backoff import TRANSPORTS

MakeConfig = Callable[..., Config]
SECONDS = 20
ALONE = [(transport,) for transport in TRANSPORTS]


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


@pytest.fixture
async def proxy(web: Web) -> AsyncIterator[Proxy]:
    async with running_proxy(web.port) as running:
        yield running


@pytest.fixture
async def breakable(proxy: Proxy) -> AsyncIterator[HttpNetwork]:
    """Return a network whose connections the test can cut or silence."""
    network = HttpNetwork(f"http://127.0.0.1:{proxy.port}", trust_env=False)
    yield network
    await network.close()


@pytest.mark.parametrize("transport", ["ws", "sse", "long-poll"])
async def test_following_resumes_after_a_cut(web: Web, proxy: Proxy, breakable: HttpNetwork, transport: str) -> None:
    """Show what happened while the connection was cut: no gap, no repeat."""
    session, token = await web.submit()
    watcher = Watcher(following(breakable, session.id, token, (transport,)))
    await until(lambda: watcher.seqs == [1])
    await until(lambda: proxy.cut() > 0)
    claim = await web.begin(session)
    await until(lambda: watcher.seqs == [1, 2])
    await until(lambda: proxy.cut() > 0)
    await web.complete(claim)
    assert await watcher.finished() == [1, 2, 3]


async def test_following_outlives_a_server_that_is_gone(web: Web, proxy: Proxy, breakable: HttpNetwork) -> None:
    """Retry on the same transport while nothing answers; resume at the cursor."""
    session, token = await web.submit()
    watcher = Watcher(following(breakable, session.id, token))
    await until(lambda: watcher.seqs == [1])
    await proxy.refuse()
    proxy.cut()
    await web.complete(await web.begin(session))
    await asyncio.sleep(0)
    assert watcher.seqs == [1]
    await proxy.start()
    assert await watcher.finished() == [1, 2, 3]


@pytest.mark.parametrize("transport", ["ws", "sse"])
async def test_silent_connection_is_opened_again(
    config: MakeConfig, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give a connection up that has missed its pings, though it looks open."""
    async with (
        running_web(config(ping_seconds=1)) as web,
        running_proxy(web.port) as proxy,
    ):
        network = HttpNetwork(f"http://127.0.0.1:{proxy.port}", trust_env=False)
        session, token = await web.submit()
        watcher = Watcher(following(network, session.id, token, (transport,)))
        await until(lambda: watcher.seqs == [1])
        proxy.deafen()
        await web.complete(await web.begin(session))
        await until(lambda: len(proxy._pairs) != 1)
        proxy.hear()
        assert await watcher.finished() == [1, 2, 3]
        await network.close()


class Blocked(HttpNetwork):
    """A network whose middleboxes refuse some transports, or swallow them silently."""

    def __init__(self, url: str, *blocked: str, silently: bool = False) -> None:
        super().__init__(url, trust_env=False)
        self.blocked = set(blocked)
        self.silently = silently

    @asynccontextmanager
    async def socket(self, path: str, *, subprotocols: Sequence[str], seconds: float) -> AsyncIterator[WebSocket]:
        if "ws" in self.blocked:
            raise NoAnswer("silent") if self.silently else SocketRefused(403)
        async with super().socket(path, subprotocols=subprotocols, seconds=seconds) as socket:
            yield socket

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, headers: Mapping[str, str], seconds: float
    ) -> AsyncIterator[HttpStream]:
        if "sse" in self.blocked:
            raise NoAnswer("silent") if self.silently else Lost(403)
        async with super().stream(method, path, headers=headers, seconds=seconds) as stream:
            yield stream

    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", seconds: float
    ) -> Answer:
        if "long-poll" in self.blocked and "wait=" in path:
            if self.silently:
                raise NoAnswer("silent")
            return Answer(502, {}, b"")
        return await super().request(method, path, headers=headers, body=body, seconds=seconds)


BLOCKED = [("ws",), ("ws", "sse"), ("ws", "sse", "long-poll")]


@pytest.mark.parametrize("silently", [False, True])
@pytest.mark.parametrize("blocked", BLOCKED)
async def test_following_climbs_down_to_what_works(
    web: Web, blocked: tuple[str, ...], silently: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use the best transport that the network lets through, refused or swallowed."""
    monkeypatch.setattr("tryon.client.ladder.FIRST_SECONDS", 0.01)
    network = Blocked(f"http://127.0.0.1:{web.port}", *blocked, silently=silently)
    session, token = await web.submit()
    watcher = Watcher(following(network, session.id, token))
    await until(lambda: watcher.seqs == [1])
    claim = await web.begin(session)
    await until(lambda: watcher.seqs == [1, 2])
    await web.complete(claim)
    assert await watcher.finished() == [1, 2, 3]
    assert watcher.updates[-1].transport == TRANSPORTS[len(blocked)]
    await network.close()


async def test_following_climbs_up_when_it_can(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Try better transports beside the present one; move to the best answered."""
    monkeypatch.setattr("tryon.client.ladder.CLIMB_FIRST_SECONDS", 0.05)
    monkeypatch.setattr("tryon.client.ladder.FIRST_SECONDS", 0.01)
    network = Blocked(f"http://127.0.0.1:{web.port}", "ws", "sse", "long-poll")
    session, token = await web.submit()
    followed = following(network, session.id, token)
    watcher = Watcher(followed)
    await until(lambda: "poll live" in repr(followed))
    network.blocked = {"ws"}
    await until(lambda: "sse live" in repr(followed))
    claim = await web.begin(session)
    await until(lambda: watcher.seqs == [1, 2])
    network.blocked = set()
    await until(lambda: "ws live" in repr(followed))
    await web.complete(claim)
    assert await watcher.finished() == [1, 2, 3]
    assert watcher.updates[-1].transport == "ws"
    await network.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_deleted_session_ends_following(web: Web, network: HttpNetwork, transport: str) -> None:
    """Raise a problem that says so, not a silent end."""
    session, token = await web.submit()
    watcher = Watcher(following(network, session.id, token, (transport,)))
    await until(lambda: watcher.seqs == [1])
    await web.client.delete(f"/api/tryon/sessions/{session.id}", headers={"X-Client-Token": token})
    with pytest.raises(Problem) as problem:
        await watcher.finished()
    pushed = transport in ("ws", "sse")
    assert problem.value.code == ("deleted" if pushed else "erased")
    assert not problem.value.retryable


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_unknown_session_ends_following(network: HttpNetwork, transport: str) -> None:
    """Raise not_found for a session that is not this owner's."""
    unknown = following(network, str(uuid4()), new_token(), (transport,))
    with pytest.raises(Problem) as problem:
        await Watcher(unknown).finished()
    assert problem.value.code == "not_found"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_seen_end_ends_following(web: Web, network: HttpNetwork, transport: str) -> None:
    """End with the session for a client that has seen every transition."""
    session, token = await web.submit()
    await web.complete(await web.begin(session))
    watcher = Watcher(following(network, session.id, token, (transport,), since=3))
    assert await watcher.finished() == []
    assert [update.status for update in watcher.updates] == ["completed"]


async def test_leaving_early_disconnects(web: Web, network: HttpNetwork) -> None:
    """Close the connection with the generator."""
    session, token = await web.submit()
    async with aclosing(following(network, session.id, token).updates()) as updates:
        assert (await anext(updates)).seq == 1
        assert web.hub.followers_of(session.id)
    await until(lambda: not web.hub.followers_of(session.id))


async def test_dropping_the_generator_disconnects(web: Web, network: HttpNetwork) -> None:
    """Close the connection when a loop is left by ``break``."""
    session, token = await web.submit()
    async for _ in following(network, session.id, token).updates():
        assert web.hub.followers_of(session.id)
        break
    await until(lambda: not web.hub.followers_of(session.id))


@pytest.mark.slow
async def test_following_outlives_a_killed_server() -> None:
    """Resume at the cursor after a kill, while a worker ran the session."""
    settings: dict[str, Any] = {"upload_rate": "off", "mock_seconds": 0.1, "mock_failure_rate": 0}
    async with running_cluster(workers=0, **settings) as cluster, AsyncTryOn(cluster.url, trust_env=False) as tryon:
        network = HttpNetwork(cluster.url, trust_env=False)
        session_id = (await tryon.upload(small())).session_id
        watchers = [Watcher(following(network, session_id, tryon.token, each)) for each in (TRANSPORTS, *ALONE)]
        await until(lambda: all(watcher.seqs == [1] for watcher in watchers))
        await cluster.web.kill()
        await cluster.make_worker().start()
        await cluster.start_web(cluster.web)
        assert [await watcher.finished() for watcher in watchers] == [[1, 2, 3]] * 5
        await network.close()
