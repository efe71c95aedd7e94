"""Time from an accepted upload to its start on a worker; CPU of an idle worker.

Both times are the database's: that of the transaction that made the session, and of the
one that claimed it. They are read from the session's history, in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime

from benchmarks.installation import running_installation
from server.system.processes import raise_file_limit
from testkit.costs import cpu_seconds, tree_cpu_seconds
from testkit.load import Http, form
from testkit.photos import photo
from testkit.profiles import BENCHMARK
from testkit.report import heading, percentile, table
from tryon.protocol.paths import SESSIONS


async def main(*, sessions: int, rate: float, idle_seconds: float, mock_seconds: float) -> None:
    raise_file_limit()
    settings = BENCHMARK | {"mock_seconds": mock_seconds, "mock_failure_rate": 0}
    heading(f"pick-up: {sessions} uploads, {rate:g}/s, then an idle worker for {idle_seconds:g} s", settings)
    body = form(photo())
    async with running_installation(worker=True, **settings) as cluster:
        http = Http(cluster.port)
        made = []
        started = time.perf_counter()
        for number in range(sessions):
            await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
            made.append(await http.upload(body))
        await asyncio.sleep(mock_seconds + 1)
        delays = []
        for session in made:
            path = f"{SESSIONS}/{session['session_id']}/history?{session['links']['ws'].partition('?')[2]}"
            if (token := session.get("client_token")) is None:
                raise SystemExit("an upload without a token was given none")
            _, _, answer = await http.request("GET", path, f"Authorization: Bearer {token}\r\n")
            events = {event["event"]: event["at"] for event in json.loads(answer)["events"]}
            if "processing" in events:
                delays.append((_unix(events["processing"]) - _unix(events["created"])) * 1000)
        http.close()
        own, everything, began = (
            cpu_seconds(cluster.worker.pid),
            tree_cpu_seconds(cluster.worker.pid),
            time.perf_counter(),
        )
        await asyncio.sleep(idle_seconds)
        passed = time.perf_counter() - began
        idle = (
            (cpu_seconds(cluster.worker.pid) - own) / passed,
            (tree_cpu_seconds(cluster.worker.pid) - everything) / passed,
        )
    table(
        ("sessions", "started", "p50 ms", "p95 ms", "p99 ms", "max ms", "idle worker CPU %", "with children %"),
        [
            [
                str(sessions),
                len(delays),
                *(percentile(delays, share) for share in (0.5, 0.95, 0.99)),
                max(delays, default=float("nan")),
                idle[0] * 100,
                idle[1] * 100,
            ]
        ],
    )


def _unix(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
