"""Starts a peer under uvicorn, on the Valkey of the product beside it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Final

from testkit.cluster import Cluster
from testkit.processes import free_port, listening, spawn, stop

OPTIONS: Final = (
    *("--loop", "uvloop", "--http", "httptools", "--backlog", "4096"),
    *("--log-level", "warning", "--no-access-log"),
)


@contextlib.asynccontextmanager
async def running_peer(name: str, cluster: Cluster) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Run ``benchmarks/peers/<name>.py``; yield its process and port."""
    port = free_port()
    process = await spawn(
        *(sys.executable, "-m", "uvicorn", f"benchmarks.peers.{name}:app", "--port", str(port), *OPTIONS),
        settings={"REDIS_PORT": str(cluster.valkey.port)},
    )
    try:
        await listening(port, process)
        yield process, port
    finally:
        await stop(process)
