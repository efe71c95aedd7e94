"""All clients are cut off at once and come back: after SIGTERM, and after SIGKILL.

Clients behave as the browser client does: they wait ``retry_after_ms`` if it was
announced, else full jitter that doubles with each failure, and ask for missed events. A
new web process is started as soon as the old one has ended. While none runs, some
sessions change: their clients must learn of exactly that.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from dataclasses import dataclass, field

from benchmarks.installation import running_installation
from server.services import Services
from server.system.processes import raise_file_limit
from testkit.cluster import Cluster
from testkit.costs import cpu_seconds
from testkit.load import Client, Held, close_all, connect, connect_all, hold
from testkit.profiles import BENCHMARK, QUIET
from testkit.report import heading, percentile, table

FIRST_SECONDS, MOST_SECONDS = 0.5, 30.0
"""The browser client's back-off."""

GIVE_UP_SECONDS = 60.0
CHANGED = 50


async def main(*, clients: int) -> None:
    raise_file_limit()
    settings = BENCHMARK | QUIET
    heading(f"avalanche: {clients} clients come back after SIGTERM, and after SIGKILL", settings)
    rows: list[list[str | float | int | None]] = []
    async with running_installation(**settings) as cluster, cluster.services() as services:
        held = await hold(services, clients)
        for number in (signal.SIGTERM, signal.SIGKILL):
            rows.append([number.name, *await _Avalanche(cluster, services, held).run(number)])
    columns = (
        "signal", "announced s", "away s", "50 % back s", "95 %", "99 %", "all", "all since up s", "back", "right",
        "attempts", "CPU ms each",
    )  # fmt: skip
    table(columns, rows)
    print("seconds from the signal; `away`: until a new process listens; right: at its session's newest seq, no gap")


@dataclass
class _Avalanche:
    cluster: Cluster
    services: Services
    held: list[Held]
    hints: dict[int, float] = field(default_factory=dict)
    back: dict[int, float] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)
    attempts: int = 0

    async def run(self, number: signal.Signals) -> list[str | float | int | None]:
        connected, _ = await connect_all(self.cluster.port, [each.path for each in self.held], on_text=self._heard)
        self.seen = {n: each.seq for n, each in enumerate(self.held)}
        started = time.perf_counter()
        returning: list[asyncio.Task[Client]] = []
        for client in connected:
            client.on_end = lambda client: returning.append(asyncio.create_task(self._return(client.number, started)))
        self.cluster.web.send(number)
        await self.cluster.web.ended()
        changing = asyncio.create_task(self._change())
        await self.cluster.start_web(self.cluster.web)
        away = time.perf_counter() - started
        pid = self.cluster.web.pid
        began = cpu_seconds(pid)
        while len(self.back) < len(self.held) and time.perf_counter() - started < GIVE_UP_SECONDS:
            await asyncio.sleep(0.05)
        cpu = cpu_seconds(pid) - began
        await changing
        await asyncio.sleep(1)  # late news
        for client in connected:
            client.on_end = None
        for task in returning:
            task.cancel()
        clients = [task.result() for task in returning if task.done() and not task.cancelled() and not task.exception()]
        right = sum(self.seen[n] == each.seq for n, each in enumerate(self.held))
        await close_all([*connected, *clients])
        times = list(self.back.values())
        complete = len(times) == len(self.held)
        return [
            max(self.hints.values(), default=None),
            away,
            *(percentile(times, share) if len(times) > share * len(self.held) else None for share in (0.5, 0.95, 0.99)),
            max(times) if complete else None,
            max(times) - away if complete else None,
            len(times),
            right,
            self.attempts,
            cpu * 1000 / max(1, len(times)),
        ]

    async def _change(self) -> None:
        """Requeue and claim some sessions while no client is connected.

        Each gets two transitions; all of it takes half a second.
        """
        for each in random.sample(self.held, min(CHANGED, len(self.held))):
            await self.services.sessions.claims.requeue(each.claim, burnt=False, reason="benchmark")
            claim = await self.services.sessions.claims.begin(each.session_id, worker="benchmark")
            assert claim is not None
            each.claim, each.seq = claim, claim.session.seq

    def _heard(self, client: Client, text: bytes) -> None:
        if text.startswith(b'{"type":"bye"'):
            pause = json.loads(text)["retry_after_ms"]
            if pause is not None:
                self.hints[client.number] = pause / 1000
        elif text.startswith(b'{"type":"event"'):
            self._saw(client.number, json.loads(text)["seq"])

    def _saw(self, number: int, seq: int) -> None:
        if seq == self.seen[number] + 1:
            self.seen[number] = seq

    async def _return(self, number: int, started: float) -> Client:
        failures = 1
        pause = self.hints.get(number, random.random() * FIRST_SECONDS)
        while True:
            await asyncio.sleep(pause)
            self.attempts += 1
            try:
                path = f"{self.held[number].path}&since={self.seen[number]}"
                client = await connect(self.cluster.port, path, number, on_text=self._heard)
            except (OSError, TimeoutError):
                failures += 1
                pause = random.random() * min(MOST_SECONDS, FIRST_SECONDS * 2 ** (failures - 1))
                continue
            self.back[number] = time.perf_counter() - started
            for event in json.loads(client.greeting).get("missed", ()):
                self._saw(number, event["seq"])
            return client
