"""The cost of an upload: the web process alone, and everything; beside Pillow alone.

A closed loop over some connections; no worker runs, the sessions wait. Pillow alone
decodes, turns upright and encodes in this process, nothing else.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Sequence

from PIL import Image, ImageOps

from benchmarks.installation import running_installation
from server.system.processes import raise_file_limit
from testkit import photos
from testkit.cluster import Cluster
from testkit.costs import cpu_seconds, tree_cpu_seconds
from testkit.load import Http, form
from testkit.profiles import BENCHMARK, QUIET
from testkit.report import heading, percentile, table


async def main(*, seconds: float, connections: Sequence[int], sizes: Sequence[str]) -> None:
    raise_file_limit()
    settings = BENCHMARK | QUIET
    heading(f"upload: {seconds:g} s each, over {', '.join(map(str, connections))} connections", settings)
    rows: list[list[str | float | int | None]] = []
    notes: list[str] = []
    for size in sizes:
        picture = photos.small() if size == "small" else photos.large()
        name = f"{len(picture) / 1000:.0f} kB"
        alone = await asyncio.to_thread(_pillow, picture, seconds / 2)
        rows.append([f"{name}, Pillow alone", None, None, None, None, None, alone])
        for count in connections:
            async with running_installation(**settings) as cluster:
                figures = await _storm(cluster, form(picture), count, seconds)
            rows.append([f"{name}, {count} at a time", *figures])
            notes.append(f"{name}, {count} at a time: everything / Pillow alone = {figures[-1] / alone:.2f}")
    columns = ("upload", "accepted/s", "p50 ms", "p95 ms", "p99 ms", "web process CPU ms", "everything CPU ms")
    table(columns, rows)
    print("\n".join(notes))


async def _storm(cluster: Cluster, body: bytes, connections: int, seconds: float) -> list[float]:
    delays: list[float] = []
    over = time.perf_counter() + 1.0

    async def upload(number: int) -> None:
        http = Http(cluster.port, number)
        while (started := time.perf_counter()) < over:
            await http.upload(body)
            delays.append((time.perf_counter() - started) * 1000)
        http.close()

    await asyncio.gather(*map(upload, range(connections)))  # a second to warm up
    delays.clear()
    own, everything = cpu_seconds(cluster.web.pid), _everything(cluster)
    started = time.perf_counter()
    over = started + seconds
    await asyncio.gather(*map(upload, range(connections)))
    passed = time.perf_counter() - started
    count = len(delays)
    return [
        count / passed,
        *(percentile(delays, share) for share in (0.5, 0.95, 0.99)),
        (cpu_seconds(cluster.web.pid) - own) * 1000 / count,
        (_everything(cluster) - everything) * 1000 / count,
    ]


def _everything(cluster: Cluster) -> float:
    """Return the CPU seconds of the web process with its children, and of Valkey."""
    return tree_cpu_seconds(cluster.web.pid) + cpu_seconds(cluster.valkey.pid)


def _pillow(data: bytes, seconds: float) -> float:
    """Return the CPU ms of decode, turn and encode."""
    over, times = time.perf_counter() + seconds, 0
    cpu = time.thread_time()
    while times == 0 or time.perf_counter() < over:
        with Image.open(io.BytesIO(data)) as image:
            ImageOps.exif_transpose(image).save(io.BytesIO(), "JPEG", quality=90)
        times += 1
    return (time.thread_time() - cpu) * 1000 / times
