"""How long `tryon serve` and `tryon up` take until they are ready; and idle memory.

The stack is what ``./run`` starts when everything is installed: Valkey, migrations, web
process, worker, and the processes that photos and sessions run in. Memory is counted in
proportion (PSS) and all together, after a first session has ended.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from statistics import median

from benchmarks.installation import running_installation
from testkit.costs import pss_bytes
from testkit.load import Http, form
from testkit.photos import photo
from testkit.processes import free_port, spawn, stop
from testkit.report import heading, table
from tryon.protocol.paths import PROCESSOR, READY

READY_SECONDS = 30.0
SETTLE_SECONDS = 5.0
SETTINGS = {"mock_seconds": 0.5, "mock_failure_rate": 0, "log_level": "error"}


async def main(*, starts: int) -> None:
    heading(f"start: {starts} times `tryon serve`, {starts} times `tryon up`", SETTINGS)
    serve, up, memory, stops = [], [], [], []
    async with running_installation(log_level="error") as cluster:
        for _ in range(starts):
            await cluster.web.terminate()
            began = time.perf_counter()
            waiting = asyncio.create_task(_ready(cluster.port))
            await cluster.start_web(cluster.web)
            await waiting
            serve.append(time.perf_counter() - began)
    for _ in range(starts):
        with tempfile.TemporaryDirectory(prefix="tryon-benchmark-") as folder:
            port = free_port()
            environ = {f"TRYON_{name.upper()}": str(value) for name, value in SETTINGS.items()}
            began = time.perf_counter()
            process = await spawn(
                *(sys.executable, "-m", "server", "up"),
                settings=environ | {"TRYON_DATA_DIR": folder, "TRYON_PORT": str(port)},
            )
            await _ready(port, PROCESSOR)
            up.append(time.perf_counter() - began)
            http = Http(port)
            await http.upload(form(photo()))
            http.close()
            await asyncio.sleep(SETTLE_SECONDS)
            memory.append(pss_bytes(process.pid) / 2**20)
            began = time.perf_counter()
            await stop(process, signal.SIGINT)
            stops.append(time.perf_counter() - began)
    rows: list[list[str | float | int | None]] = [
        ["tryon serve", median(serve), max(serve), None, None],
        ["tryon up", median(up), max(up), median(memory), median(stops)],
    ]
    table(("command", "ready s", "at most", "idle PSS MB", "gone after Ctrl-C s"), rows)


async def _ready(port: int, path: str = READY) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while True:
            http = Http(port)
            try:
                status, _, _ = await http.request("GET", path)
                if status == 200:
                    return
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                http.close()
            await asyncio.sleep(0.01)
