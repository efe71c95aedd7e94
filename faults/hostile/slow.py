"""Slow attacks beside a canary: pushes must stay quick, and memory must come back."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psutil

from faults.hostile.attacks import ATTACKS
from faults.hostile.usage import LEAK_BYTES
from faults.hostile.verdict import Verdict
from server.services import Services
from testkit import processes
from testkit.cluster import Cluster, running_cluster
from testkit.load import Client, Held, close_all, connect_all, hold
from testkit.report import machine, table

CANARIES: Final = 50
"""Sessions whose progress is pushed in turn: each below its five a second."""
EVERY_SECONDS: Final = 0.02
SLOWER: Final = 2.0
"""Promised: p99 of a push during an attack, at most this many times that of idle."""
NOISE_SECONDS: Final = 0.005
"""Differences that a machine's scheduler makes by itself."""
SETTLE_SECONDS: Final = 30.0
"""Longest time to give memory back after the last attack."""


@dataclass
class Canary:
    """Clients that follow, and the time from each report to its frame."""

    services: Services
    sessions: Sequence[Held]
    clients: Sequence[Client]
    sent: dict[int, float]
    times: list[float]

    async def sing(self, seconds: float) -> None:
        """Report progress in turn for this long; collect the times of its frames."""
        self.times.clear()
        end = time.perf_counter() + seconds
        turns = itertools.cycle(enumerate(self.sessions))
        while time.perf_counter() < end:
            number, session = next(turns)
            self.sent[number] = time.perf_counter()
            await self.services.sessions.claims.report(session.claim, 0.5, "singing", None)
            await asyncio.sleep(EVERY_SECONDS)
        await asyncio.sleep(0.2)

    def quantile(self, share: float) -> float:
        """Return a quantile of the times; infinite without any."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


async def run(names: Sequence[str] = tuple(ATTACKS), *, seconds: float = 8.0) -> Verdict:
    """Measure idle, then during each attack, then the memory that stays; print it."""
    verdict = Verdict()
    settings: dict[str, Any] = {
        "upload_rate": "off",
        "lease_seconds": 3600,
        "deadline_seconds": 86000,
        "log_level": "error",
    }
    async with running_cluster(workers=0, **settings) as cluster, cluster.services() as services:
        canary = await _canary(cluster, services)
        web = psutil.Process(cluster.web.pid)
        await canary.sing(seconds)
        idle, before = canary.quantile(0.99), web.memory_info().rss
        if not canary.times:
            raise SystemExit("no push arrived")
        rows = [_row("idle", canary, 1.0, 0)]
        for name in names:
            attacker = await processes.spawn(sys.executable, "-m", "faults.hostile.attacks", str(cluster.port), name)
            await asyncio.sleep(1)
            await canary.sing(seconds)
            p99, grown = canary.quantile(0.99), web.memory_info().rss - before
            rows.append(_row(name, canary, p99 / idle, grown))
            if p99 > max(SLOWER * idle, idle + NOISE_SECONDS):
                verdict.leaks.append(f"{name}: pushes took {1000 * p99:.1f} ms at p99, {1000 * idle:.1f} ms idle")
            await processes.stop(attacker)
        await canary.sing(seconds)
        stays = await _stays(web, before)
        rows.append(_row("idle again", canary, canary.quantile(0.99) / idle, stays))
        if stays > LEAK_BYTES:
            verdict.leaks.append(f"{stays / 2**20:.0f} MiB stay after the attacks")
        await close_all(list(canary.clients))
    print(f"# {machine()}")
    table(("attack", "pushes", "p50 ms", "p99 ms", "of idle", "MiB more"), rows)
    print(verdict.report())
    return verdict


async def _canary(cluster: Cluster, services: Services) -> Canary:
    sessions = await hold(services, CANARIES)
    sent: dict[int, float] = {}
    times: list[float] = []

    def shown(client: Client, text: bytes) -> None:
        if b'"singing"' in text and (at := sent.pop(client.number, None)) is not None:
            times.append(time.perf_counter() - at)

    clients, _ = await connect_all(cluster.port, [session.path for session in sessions], on_text=shown)
    return Canary(services, sessions, clients, sent, times)


async def _stays(web: psutil.Process, before: int) -> int:
    """Wait until the memory is back; return what is not."""
    end = time.monotonic() + SETTLE_SECONDS
    while (more := web.memory_info().rss - before) > LEAK_BYTES and time.monotonic() < end:
        await asyncio.sleep(0.2)
    return more


def _row(name: str, canary: Canary, ratio: float, grown: int) -> tuple[str | float, ...]:
    p50, p99 = (f"{1000 * canary.quantile(share):.1f}" for share in (0.5, 0.99))
    return name, len(canary.times), p50, p99, f"{ratio:.1f}", f"{grown / 2**20:.0f}"
