"""One session with many followers: the cost of a delivery, beside plain Starlette.

Events of the product's own form are published on the session's channel at a fixed rate,
so that both servers pass on the same bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks.installation import running_installation
from benchmarks.peers.running import running_peer
from server.domain.bus_message import EVENT, bus_message
from server.domain.session import timestamp
from server.system.processes import raise_file_limit
from testkit.costs import cpu_seconds
from testkit.load import Client, close_all, connect_all, hold
from testkit.profiles import BENCHMARK, QUIET
from testkit.report import heading, percentile, table
from tryon.protocol.frames import EventFrame, encode
from tryon.protocol.states import Event, Status

Publish = Callable[[int], Awaitable[object]]
SETTLE_SECONDS = 1.0


async def main(*, clients: int, rate: float, seconds: float) -> None:
    raise_file_limit()
    settings = BENCHMARK | QUIET | {"sockets_per_session": 20000}
    heading(f"fan-out: 1 session, {clients} sockets, {rate:g} events/s for {seconds:g} s", settings)
    rows: list[list[str | float | int]] = []
    async with running_installation(**settings) as cluster, cluster.services() as services:
        [held] = await hold(services, 1)
        first = held.seq

        def frame(number: int) -> bytes:
            return encode(
                EventFrame(
                    session_id=held.session_id,
                    seq=first + number,
                    event=Event.PROCESSING,
                    from_=Status.CREATED,
                    status=Status.PROCESSING,
                    terminal=False,
                    at=timestamp(held.claim.session.created_at),
                    data={"attempt": 1, "n": number},
                )
            )

        async def publish(number: int) -> None:
            await services.bus.publish(held.session_id, bus_message(EVENT, first + number, 1, frame(number)))

        async def publish_plain(number: int) -> None:
            await services.redis.publish("fanout", frame(number))

        figures = await _measure(
            cluster.port, held.path, cluster.web.pid, publish, clients, rate, seconds, greeted=True
        )
        rows.append(["tryon", *figures])
        async with running_peer("starlette", cluster) as (peer, port):
            figures = await _measure(port, "/ws/fanout", peer.pid, publish_plain, clients, rate, seconds, greeted=False)
            rows.append(["starlette", *figures])
    columns = ("server", "deliveries", "lost", "CPU us each", "p50 ms", "p99 ms", "CPU %")
    table(columns, rows)
    print(f"tryon / starlette, CPU per delivery: {float(rows[0][3]) / float(rows[1][3]):.2f}")


async def _measure(
    port: int, path: str, pid: int, publish: Publish, clients: int, rate: float, seconds: float, *, greeted: bool
) -> list[float | int]:
    """Publish at a fixed rate; return the figures of one server.

    Delays are counted from the moment at which an event was to be published.
    """
    sent: dict[int, float] = {}
    delays: list[float] = []
    count = 0

    def heard(client: Client, text: bytes) -> None:
        nonlocal count
        if (start := text.find(b'"n":')) > 0:
            count += 1
            delays.append(time.perf_counter() - sent[int(text[start + 4 : text.index(b"}", start)])])

    connected, _ = await connect_all(port, [path] * clients, on_text=heard, greeted=greeted)
    await asyncio.sleep(SETTLE_SECONDS)
    events = max(1, int(rate * seconds))
    cpu, started = cpu_seconds(pid), time.perf_counter()
    for number in range(1, events + 1):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent[number] = due
        await publish(number)
    while count < events * clients and time.perf_counter() < started + seconds + 10:
        await asyncio.sleep(0.02)
    used, passed = cpu_seconds(pid) - cpu, time.perf_counter() - started
    await close_all(connected)
    in_ms = [delay * 1000 for delay in delays]
    return [
        count,
        events * clients - count,
        used / max(1, count) * 1e6,
        percentile(in_ms, 0.5),
        percentile(in_ms, 0.99),
        used / passed * 100,
    ]
