"""From a transition's commit to its frame on a client's socket.

Real uploads, one WebSocket a session. An event's ``at`` is the database's time inside the transaction, so the figure
includes the commit itself, the publish, Redis, the hub, the socket, and this client's own reading (one Python process).
SQLite's clock has milliseconds: a single value is up to 1 ms too high.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from statistics import median

import httpx
import websockets

from .stack import machine, percentile, photo, running_stack


async def main(*, clients: int, rounds: int, mock_seconds: float) -> None:
    settings = {
        "upload_rate": "off",
        "mock_seconds": mock_seconds,
        "mock_failure_rate": 0,
        "worker_jobs": clients,
        "sockets_per_address": 20000,
        "queue_limit": 100000,
    }
    print(f"# {machine()}")
    print(f"# {clients} clients, mock {mock_seconds:g} s, {rounds} rounds; settings {settings}")
    print(f"{'round':>5} {'event':<12} {'n':>6} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'max ms':>8}")
    medians: list[float] = []
    for number in range(1, rounds + 1):
        async with running_stack(**settings) as address:
            delays = await _round(address, clients)
        for event, values in delays.items():
            print(f"{number:>5} {event:<12} {len(values):>6} {_figures(values)}")
        everything = [value for values in delays.values() for value in values]
        print(f"{number:>5} {'all':<12} {len(everything):>6} {_figures(everything)}", flush=True)
        medians.append(percentile(everything, 0.5))
    print(f"median of the rounds' p50: {median(medians):.2f} ms")


def _figures(values: list[float]) -> str:
    return " ".join(f"{percentile(values, share):>8.2f}" for share in (0.5, 0.95, 0.99)) + f" {max(values):>8.2f}"


async def _round(address: str, clients: int) -> dict[str, list[float]]:
    """Milliseconds by event. Uploads go on while others are pushed to, a few at a time, as in life."""
    delays: dict[str, list[float]] = {"processing": [], "completed": []}
    body = photo()
    gate = asyncio.Semaphore(4)
    async with httpx.AsyncClient(base_url=address, timeout=30) as http:

        async def one() -> None:
            async with gate:
                answer = await http.post("/api/tryon/sessions", files={"image": ("photo.jpg", body)})
            answer.raise_for_status()
            await _follow(address, answer.json(), delays)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(one())
    return delays


async def _follow(address: str, session: dict[str, object], delays: dict[str, list[float]]) -> None:
    links = session["links"]
    assert isinstance(links, dict)
    async with websockets.connect(address.replace("http", "ws", 1) + links["ws"], max_queue=None) as socket:
        async for text in socket:
            now = time.time()
            frame = json.loads(text)
            if frame["type"] == "event" and frame["event"] in delays:
                delays[frame["event"]].append((now - datetime.fromisoformat(frame["at"]).timestamp()) * 1000)
            elif frame["type"] == "bye" and frame["code"] != 1000:
                raise SystemExit(f"a socket was closed: {frame}")
