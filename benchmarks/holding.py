"""The cost of connecting clients, and of keeping them connected.

CPU and memory of the web process, beside plain Starlette. The product checks a ticket,
reads the session and sends a snapshot for each; the peer does none of it. Every client
has a session of its own, which is being processed and has no news.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from benchmarks.installation import running_installation
from benchmarks.peers.running import running_peer
from server.system.processes import raise_file_limit
from testkit.costs import cpu_seconds, pss_bytes
from testkit.load import close_all, connect_all, hold, queue
from testkit.profiles import BENCHMARK, QUIET
from testkit.report import heading, percentile, table

SETTLE_SECONDS = 1.5


async def idle(*, clients: int, seconds: float, ping_seconds: float, queued: bool) -> None:
    """Connect them, then leave them alone."""
    raise_file_limit()
    settings = BENCHMARK | QUIET | {"ping_seconds": ping_seconds}
    heading(
        f"idle: {clients} clients, each with its own session, {'queued' if queued else 'processing'}, "
        f"watched for {seconds:g} s",
        settings,
    )
    rows: list[list[str | float | int]] = []
    async with running_installation(**settings) as cluster:
        async with cluster.services() as services:
            if queued:
                paths = [path for _, path in await queue(services, clients)]
            else:
                paths = [each.path for each in await hold(services, clients)]
        await asyncio.sleep(SETTLE_SECONDS)
        rows.append(["tryon", *await _hold(cluster.port, paths, cluster.web.pid, seconds, True)])
        async with running_peer("starlette", cluster) as (peer, port):
            paths = [f"/ws/{number}" for number in range(clients)]
            rows.append(["starlette", *await _hold(port, paths, peer.pid, seconds, False)])
    table(
        (
            "server",
            "clients",
            "PSS before MB",
            "PSS MB",
            "kB a client",
            "idle CPU %",
            "without clients %",
            "after close MB",
        ),
        rows,
    )


async def _hold(port: int, paths: Sequence[str], pid: int, seconds: float, greeted: bool) -> list[float | int]:
    await close_all((await connect_all(port, paths[:1], greeted=greeted))[0])  # what is loaded once, is loaded now
    empty = await _busy(pid, min(seconds, 5))
    before = pss_bytes(pid)
    connected, _ = await connect_all(port, paths, greeted=greeted)
    await asyncio.sleep(SETTLE_SECONDS)
    busy = await _busy(pid, seconds)
    after = pss_bytes(pid)
    alive = sum(client.connected for client in connected)
    await close_all(connected)
    await asyncio.sleep(SETTLE_SECONDS)
    each = (after - before) / max(1, alive) / 1024
    return [alive, before / 2**20, after / 2**20, each, busy * 100, empty * 100, pss_bytes(pid) / 2**20]


async def _busy(pid: int, seconds: float) -> float:
    cpu, started = cpu_seconds(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    return (cpu_seconds(pid) - cpu) / (time.perf_counter() - started)


async def connect(*, clients: int, rounds: int) -> None:
    """Connect them all, close them all, and again."""
    raise_file_limit()
    settings = BENCHMARK | QUIET
    heading(f"connect: {clients} clients, each with its own session, 64 at a time, {rounds} rounds", settings)
    rows: list[list[str | float | int]] = []
    async with running_installation(**settings) as cluster:
        async with cluster.services() as services:
            held = await hold(services, clients)
        rows += await _connect("tryon", cluster.port, [each.path for each in held], cluster.web.pid, rounds, True)
        async with running_peer("starlette", cluster) as (peer, port):
            paths = [f"/ws/{each.session_id}" for each in held]
            rows += await _connect("starlette", port, paths, peer.pid, rounds, False)
    table(("server, round", "CPU ms a connect", "connects/s", "p50 ms", "p99 ms", "CPU ms a close"), rows)
    print("tryon: until the snapshot is there; starlette: until the upgrade is answered")


async def _connect(
    name: str, port: int, paths: Sequence[str], pid: int, rounds: int, greeted: bool
) -> list[list[str | float | int]]:
    rows: list[list[str | float | int]] = []
    await close_all((await connect_all(port, paths[:1], greeted=greeted))[0])
    for number in range(1, rounds + 1):
        cpu, started = cpu_seconds(pid), time.perf_counter()
        connected, seconds = await connect_all(port, paths, greeted=greeted)
        passed = time.perf_counter() - started
        opened = cpu_seconds(pid)
        await close_all(connected)
        await asyncio.sleep(SETTLE_SECONDS)
        in_ms = [each * 1000 for each in seconds]
        rows.append(
            [
                f"{name} {number}",
                (opened - cpu) * 1000 / len(paths),
                len(paths) / passed,
                percentile(in_ms, 0.5),
                percentile(in_ms, 0.99),
                (cpu_seconds(pid) - opened) * 1000 / len(paths),
            ]
        )
    return rows
