"""From a transition's commit to its frame on a client's socket.

Everything is real: uploads over HTTP, a queue, a worker with the mock processor, one
WebSocket a session. That number of sessions is always there, each followed by its
client, most of them waiting in the queue; whenever one ends, a new one is uploaded. The
worker's slots start one after the other, so that transitions come evenly, ``rate``
sessions a second, and not in waves.

An event's ``at`` is the database's time inside the transaction: the figure includes the
commit itself, the publish, Redis, the hub, the socket and this client's own reading.
SQLite's clock has milliseconds: a single value is up to 1 ms too high.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from statistics import median

from benchmarks.installation import running_installation
from server.system.processes import raise_file_limit
from testkit.cluster import Cluster
from testkit.costs import cpu_seconds
from testkit.load import Client, Http, Times, connect, form
from testkit.photos import large, photo
from testkit.profiles import BENCHMARK
from testkit.report import heading, percentile, table
from tryon.protocol.paths import SESSIONS

UPLOADERS = 4
WARM_SECONDS = 2.0


async def main(*, clients: int, rate: float, seconds: float, rounds: int, mock_seconds: float, storm: int) -> None:
    raise_file_limit()
    slots = max(1, min(clients // 2, math.ceil(rate * mock_seconds)))
    settings = BENCHMARK | {
        "mock_seconds": round(slots / rate, 3),
        "mock_failure_rate": 0,
        "worker_jobs": slots,
        "deadline_seconds": 3600,
    }
    meanwhile = f", while {storm} others upload 12-megapixel photos without a pause" if storm else ""
    heading(
        f"commit -> frame: {clients} clients connected, {rate:g} sessions/s, {rounds} rounds of {seconds:g} s{meanwhile}",
        settings,
    )
    async with running_installation(worker=True, **settings) as cluster:
        crowd = _Crowd(cluster, clients)
        async with crowd.running(slots, rate), _storm(cluster.port, storm) as photos:
            await asyncio.sleep(WARM_SECONDS)
            photos[0] = 0
            rows: list[list[str | float | int]] = []
            medians: list[float] = []
            for number in range(1, rounds + 1):
                crowd.clear()
                cpu, started = cpu_seconds(cluster.web.pid), time.perf_counter()
                await asyncio.sleep(seconds)
                busy = (cpu_seconds(cluster.web.pid) - cpu) / (time.perf_counter() - started)
                everything = [delay for values in crowd.delays.values() for delay in values]
                for event, delays in {**crowd.delays, "all": everything}.items():
                    rows.append([f"{number} {event}", len(delays), *_figures(delays), crowd.connected, busy * 100])
                medians.append(percentile(everything, 0.5))
            broken, uploaded = crowd.broken, photos[0]
    table(("round, event", "n", "p50 ms", "p95 ms", "p99 ms", "max ms", "connected", "web CPU %"), rows)
    print(f"median of the rounds' p50: {median(medians):.2f} ms; sockets lost in between: {broken}")
    if storm:
        print(f"12-megapixel photos meanwhile: {uploaded / (seconds * rounds):.1f} a second")


def _figures(delays: list[float]) -> list[float]:
    return [*(percentile(delays, share) for share in (0.5, 0.95, 0.99)), max(delays, default=float("nan"))]


@contextlib.asynccontextmanager
async def _storm(port: int, connections: int) -> AsyncIterator[list[int]]:
    """Upload large photos without a pause; yield the number so far.

    Each is deleted when it is there, so that the worker's time is not for them.
    """
    body, done = form(large()), [0]

    async def upload_for_ever(number: int) -> None:
        http = Http(port, number)
        while True:
            session = await http.upload(body)
            path = f"{SESSIONS}/{session['session_id']}"
            await http.request("DELETE", path, f"Authorization: Bearer {session['client_token']}\r\n")
            done[0] += 1

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(upload_for_ever(number)) for number in range(connections)]
        yield done
        for task in tasks:
            task.cancel()


class _Crowd:
    """A fixed number of sessions with a client each; an ended one is replaced."""

    def __init__(self, cluster: Cluster, size: int) -> None:
        self._port = cluster.port
        self._size = size
        self._body = form(photo())
        self._wanted: asyncio.Queue[int] = asyncio.Queue()
        self._times = Times()
        self.delays: dict[str, list[float]] = {}
        self.connected = 0
        self.broken = 0
        self.clear()

    def clear(self) -> None:
        self.delays = {"processing": [], "completed": []}

    @contextlib.asynccontextmanager
    async def running(self, slots: int, rate: float) -> AsyncIterator[None]:
        """Keep the sessions going; the block begins when all are connected."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._upload_for_ever(number)) for number in range(UPLOADERS)]
            for number in range(self._size):
                self._wanted.put_nowait(number)
                if number < slots:
                    await asyncio.sleep(1 / rate)
            while self.connected < self._size:
                await asyncio.sleep(0.05)
            yield
            for task in tasks:
                task.cancel()

    async def _upload_for_ever(self, number: int) -> None:
        http = Http(self._port, number)
        while True:
            wanted = await self._wanted.get()
            session = await http.upload(self._body)
            await connect(self._port, session["links"]["ws"], wanted, on_text=self._heard, on_end=self._ended)
            self.connected += 1

    def _heard(self, client: Client, text: bytes) -> None:
        if text.startswith(b'{"type":"event"'):
            now = time.time()
            at = self._times.at(text)
            event = "processing" if b'"event":"processing"' in text else "completed"
            self.delays[event].append((now - at) * 1000)

    def _ended(self, client: Client) -> None:
        self.connected -= 1
        self.broken += client.code != 1000
        self._wanted.put_nowait(client.number)
