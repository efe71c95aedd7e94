"""Waiting sessions whose job Redis has lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue
from server.config.settings import Config
from server.reconciler import timing
from server.services import open_services
from testkit.fixtures import StartValkey
from testkit.running import PHOTO, running_web, until
from tests.server.reconciler.conftest import Start, submitted
from tests.server.sessions.conftest import row
from tryon.protocol.states import Status

MakeConfig = Callable[..., Config]


async def queued(queue: ArqQueue) -> list[str]:
    """Return the sessions in the queue; none while Redis is unavailable."""
    try:
        return await queue.order(10)
    except QueueUnavailable:
        return []


async def test_forgotten_job_is_enqueued_again(start: Start) -> None:
    """Enqueue a session again after Redis has lost everything."""
    async with start() as web:
        session, _ = await web.submit()
        await web.services.redis.flushall()
        async with asyncio.timeout(6):
            while True:
                found = await row(web.services, session)
                if found.enqueues > 1 and await web.services.queue.contains(session.id, 0, found.enqueues):
                    break
                await asyncio.sleep(0.02)
        assert (found.status, found.seq) == (Status.CREATED, 1)


@pytest.mark.parametrize("lost", ["jobs", "the way there"])
async def test_restored_redis_gets_missing_jobs_at_once(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Enqueue missing jobs at once when Redis is back, whatever was lost."""
    # Only one can have done it: the reconciler for lost jobs, else the process that
    # could not queue it.
    monkeypatch.setattr(timing, "UNQUEUED_SECONDS", 60.0)
    monkeypatch.setattr(timing, "ENQUEUE_SECONDS", 60.0 if lost == "jobs" else 0.2)
    monkeypatch.setattr(timing, "RECONCILE_SECONDS", 0.2 if lost == "jobs" else 60.0)
    valkey = start_valkey(persistent=lost != "jobs")
    async with running_web(config(redis_url=valkey.url)) as web:
        queue = web.services.queue
        await until(lambda: not web.services.reconciling.lost_jobs._queue_lost)  # the reconciler knows this Redis
        if lost == "jobs":
            session, _ = await web.submit()
            assert await queue.depth() == 1
            valkey.kill()
        else:
            valkey.stop()
            session, _ = await web.submit()
        valkey.start()
        async with asyncio.timeout(10):
            while await queued(queue) != [session.id]:
                await asyncio.sleep(0.02)
        found = await row(web.services, session)
        assert (found.status, found.seq) == (Status.CREATED, 1)
        if lost != "jobs":
            assert found.enqueues == 1, "the same job: no other process knew that it had failed"


async def test_foreign_job_disturbs_nothing(config: MakeConfig) -> None:
    """Enqueue a missing job although the queue holds bytes of another program."""
    async with open_services(config()) as services:
        waiting = await submitted(services)
        await services.redis.flushall()
        await services.redis.zadd(services.config.queue_name, {"\xff é".encode("latin-1"): 1})
        await until(lambda: time.time() > waiting.updated_at.timestamp() + 0.6)
        await services.reconciling.reconciler.maintain()
        assert waiting.id in await services.queue.order(10)


async def test_all_missing_jobs_are_enqueued(config: MakeConfig) -> None:
    """Enqueue more sessions than fit into one page after Redis came back empty."""
    async with open_services(config()) as services:
        submitted = [
            await services.sessions.submissions.submit(owner="o" * 64, inputs=[PHOTO], params={}, request_id=None)
            for _ in range(130)
        ]
        await services.redis.flushall()
        await until(lambda: time.time() > submitted[-1].updated_at.timestamp() + 0.6)
        async with asyncio.timeout(60):
            await services.reconciling.reconciler.maintain()
            while services.reconciling.reconciler._left_over:  # of a slow machine; then the next pass follows at once
                await services.reconciling.reconciler.maintain()
        assert await services.queue.depth() == 130
