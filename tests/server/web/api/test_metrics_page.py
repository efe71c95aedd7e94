"""`/metrics` of a web process: counts, and facts that are measured for the answer."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.web.api.metrics_page import FACTS
from testkit.fixtures import StartValkey
from testkit.running import StartWeb, Web, until
from testkit.uploads import unavailable_database


async def page(web: Web) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the samples by name and labels' values, which the page sorts by label."""
    answer = await web.client.get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    return {(each.name, tuple(each.labels.values())): each.value for family in families for each in family.samples}


async def test_facts_are_measured_for_answer(web: Web) -> None:
    """All of them: what waits and runs, the queue, workers, room, and every part."""
    await until(lambda: web.hub.delivers)
    await web.services.queue.note_worker("worker-1")
    await web.submit()
    running, _ = await web.submit()
    assert await web.services.sessions.claims.begin(running.id, worker="w1") is not None
    samples = await page(web)
    assert {name for name, _ in samples} >= set(FACTS)
    assert samples["tryon_sessions", ("mock", "created")] == 1
    assert samples["tryon_sessions", ("mock", "processing")] == 1
    assert samples["tryon_queue_oldest_seconds", ("mock",)] > 0
    assert samples["tryon_queue_depth", ()] == 2  # no worker has taken the jobs
    assert samples["tryon_queue_limit", ()] == web.config.queue_limit
    assert samples["tryon_workers", ()] == 1
    assert samples["tryon_storage_free_bytes", ()] > 2**20
    assert [samples["tryon_up", (part,)] for part in ("database", "storage", "redis")] == [1, 1, 1]
    assert samples["tryon_pickup_seconds_count", ("mock",)] >= 1


async def test_idle_queue_is_zero(web: Web) -> None:
    """An alert on a number that is missing would never end."""
    samples = await page(web)
    assert samples["tryon_queue_oldest_seconds", ("mock",)] == 0
    assert samples["tryon_sessions", ("mock", "created")] == 0


async def test_facts_are_missing_without_redis(start_web: StartWeb, start_valkey: StartValkey) -> None:
    """The page answers all the same, and says that Redis is unavailable."""
    valkey = start_valkey()
    web = await start_web(redis_url=valkey.url)
    await until(lambda: web.hub.delivers)
    valkey.kill()
    await until(lambda: not web.hub.delivers)
    samples = await page(web)
    assert samples["tryon_up", ("redis",)] == 0
    assert samples["tryon_up", ("database",)] == 1
    assert ("tryon_queue_depth", ()) not in samples
    assert ("tryon_sessions", ("mock", "created")) in samples
    assert samples["tryon_redis_errors_total", ("queue",)] >= 1


async def test_facts_are_missing_without_database(start_web: StartWeb, postgres_url: str) -> None:
    """What it knows without the database it tells."""
    web = await start_web(database_url=postgres_url)
    async with unavailable_database(postgres_url):
        samples = await page(web)
    assert samples["tryon_up", ("database",)] == 0
    assert ("tryon_sessions", ("mock", "created")) not in samples
    assert ("tryon_queue_depth", ()) in samples
    assert samples["tryon_database_errors_total", ("read",)] >= 1


@pytest.mark.parametrize("folder", [False, True])
async def test_storage_that_is_gone_is_named(web: Web, folder: bool) -> None:
    """A missing folder is found for the next answer."""
    if folder:
        (web.config.uploads_dir / "outputs").rmdir()
    assert (await page(web))["tryon_up", ("storage",)] == (not folder)
