"""A worker whose Redis vanishes without a word: no RST, no answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import pytest

from server.config.settings import Config
from testkit.fixtures import StartValkey
from testkit.proxy import running_proxy
from tests.worker.conftest import Feed, StartWorker
from tryon.protocol.states import Event, Status

OpenFeed = Callable[[Config], Awaitable[Feed]]
MakeConfig = Callable[..., Config]


@pytest.mark.slow
async def test_worker_outlives_a_vanished_redis(
    config: MakeConfig, worker: StartWorker, feeds: OpenFeed, start_valkey: StartValkey
) -> None:
    """Keep the lease, end the run, take the next session, and stop within seconds."""
    valkey = start_valkey(tcp=True)
    feed = await feeds(config(redis_url=valkey.tcp_url))
    async with running_proxy(valkey.port) as proxy:
        settings = config(
            redis_url=f"redis://127.0.0.1:{proxy.port}/0", mock_seconds=3, lease_seconds=2, drain_seconds=0.2
        )
        process = await worker(settings)
        session = await feed.submit()
        await feed.reaches(session.id, Status.PROCESSING)
        assert proxy.black_hole() > 1
        story = await feed.reaches(session.id)
        assert [event.event for event in story.events] == [Event.CREATED, Event.PROCESSING, Event.COMPLETED]

        proxy.mend()
        session = await feed.submit()
        asked = time.monotonic()
        await feed.reaches(session.id, Status.PROCESSING)
        assert time.monotonic() - asked < 20  # 1 on an idle machine

        proxy.black_hole()
        asked = time.monotonic()
        assert await process.stop() == 0
        assert time.monotonic() - asked < settings.drain_seconds + 30  # 3 on an idle machine, 5 promised
        story = await feed.story(session.id)
        assert story.session.status is Status.CREATED
        assert story.events[-1].data["reason"] == "drained"
