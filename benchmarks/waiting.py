"""The cost of a waiting client in a minute: pushed, or polling every two seconds.

The same clients, sessions and server, one after the other. Meanwhile every session has
one piece of news in five seconds (its progress), which a pushed client gets at once and
a polling one on average a second late. Polling clients keep their connection and send
``If-None-Match``: polling as cheap as it can be.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence

from benchmarks.installation import running_installation
from server.services import Services
from server.system.processes import raise_file_limit
from testkit.cluster import Cluster
from testkit.costs import cpu_seconds
from testkit.load import Client, Held, Http, close_all, connect_all, hold
from testkit.profiles import BENCHMARK, QUIET
from testkit.report import heading, table
from tryon.protocol.paths import SESSIONS

SETTLE_SECONDS = 1.5


async def main(*, clients: int, seconds: float, poll_seconds: float, news_seconds: float) -> None:
    raise_file_limit()
    settings = BENCHMARK | QUIET
    heading(
        f"waiting: {clients} clients for {seconds:g} s, news of each every {news_seconds:g} s, "
        f"by push and by asking every {poll_seconds:g} s",
        settings,
    )
    async with running_installation(**settings) as cluster, cluster.services() as services:
        held = await hold(services, clients)
        await asyncio.sleep(SETTLE_SECONDS)
        idle = await _cost(cluster, seconds / 2)
        async with _news(services, held, news_seconds):
            heard = 0

            def hear(client: Client, text: bytes) -> None:
                nonlocal heard
                heard += text.startswith(b'{"type":"progress"')

            connected, _ = await connect_all(cluster.port, [each.path for each in held], on_text=hear)
            await asyncio.sleep(SETTLE_SECONDS)
            heard = 0
            pushed = await _cost(cluster, seconds)
            frames = heard
            await close_all(connected)
            await asyncio.sleep(SETTLE_SECONDS)
            asked = [0, 0]
            async with _asking(cluster.port, held, poll_seconds, asked):
                await asyncio.sleep(SETTLE_SECONDS)
                asked[:] = [0, 0]
                polled = await _cost(cluster, seconds)
                answers, changed = asked
    minutes = clients * seconds / 60
    rows: list[list[str | float | int | None]] = [
        ["no client, no progress", None, None, None, idle[0] * 100, idle[1] * 100],
        ["push", frames, frames, pushed[0] * seconds * 1000 / minutes, pushed[0] * 100, pushed[1] * 100],
        ["polling", answers, changed, polled[0] * seconds * 1000 / minutes, polled[0] * 100, polled[1] * 100],
    ]
    columns = ("way", "frames or answers", "news", "web CPU ms a client-minute", "web CPU %", "Valkey CPU %")
    table(columns, rows)
    print(f"polling / push, CPU of a client-minute: {polled[0] / pushed[0]:.1f}")
    base = idle[0]
    if pushed[0] > base:
        print(f"without what the process does anyway: {(polled[0] - base) / (pushed[0] - base):.1f}")


async def _cost(cluster: Cluster, seconds: float) -> tuple[float, float]:
    """Return the share of a core that the web process and Valkey take."""
    before, started = (cpu_seconds(cluster.web.pid), cpu_seconds(cluster.valkey.pid)), time.perf_counter()
    await asyncio.sleep(seconds)
    passed = time.perf_counter() - started
    web, valkey = cpu_seconds(cluster.web.pid) - before[0], cpu_seconds(cluster.valkey.pid) - before[1]
    return web / passed, valkey / passed


@contextlib.asynccontextmanager
async def _news(services: Services, held: Sequence[Held], news_seconds: float) -> AsyncIterator[None]:
    """Report a little progress of every session now and then."""

    async def report() -> None:
        started, number = time.perf_counter(), 0
        while True:
            number += 1
            await asyncio.sleep(max(0.0, started + number * news_seconds / len(held) - time.perf_counter()))
            each = held[number % len(held)]
            await services.sessions.claims.report(each.claim, number / len(held) % 100 / 100, "rendering", 10)

    async with _tasks([report()]):
        yield


@contextlib.asynccontextmanager
async def _asking(port: int, held: Sequence[Held], poll_seconds: float, asked: list[int]) -> AsyncIterator[None]:
    async def ask(number: int, each: Held) -> None:
        http, etag = Http(port, number), ""
        path = f"{SESSIONS}/{each.session_id}?{each.path.partition('?')[2]}"
        await asyncio.sleep(random.random() * poll_seconds)
        due = time.perf_counter()
        try:
            while True:
                status, head, _ = await http.request("GET", path, f"If-None-Match: {etag}\r\n" if etag else "")
                if status not in (200, 304):
                    raise SystemExit(f"a poll was refused: {status}")
                asked[0] += 1
                asked[1] += status == 200
                if (found := head.lower().find(b"\r\netag: ")) > 0:
                    etag = head[found + 8 : head.index(b"\r\n", found + 8)].decode()
                due += poll_seconds
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
        finally:
            http.close()

    async with _tasks([ask(number, each) for number, each in enumerate(held)]):
        yield


@contextlib.asynccontextmanager
async def _tasks(chores: Sequence[object]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(chore) for chore in chores]  # type: ignore[arg-type, var-annotated]
        yield
        for task in tasks:
            task.cancel()
