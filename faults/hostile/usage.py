"""The usage of a server, before and after: memory, descriptors, processes, files."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Final

import psutil
from sqlalchemy import select

from faults.soak.leftovers import remains
from server.adapters.database import tables
from testkit.cluster import Cluster
from testkit.programs import Program
from tryon.protocol.errors import TryOnError

PLANTED: Final = "HOSTILE_PLANTED"
"""Environment variable: how :mod:`faults.hostile.planted` misbehaves."""
LEAK_BYTES: Final = 64 * 2**20
SPARE_DESCRIPTORS: Final = 8
"""Descriptors that come and go: connections to the database, a second image process."""
IMAGE_PROCESSES: Final = 2
SETTLE_SECONDS: Final = 20.0
"""Longest time for connections to end and memory to be given back."""

END_SECONDS: Final = 5.0
"""Longest time for a stopped server's processes to end after it."""


@dataclass(frozen=True)
class Usage:
    """What one process holds; ``children``: of all generations."""

    descriptors: int
    resident: int
    children: int


def now(web: Program) -> Usage:
    process = psutil.Process(web.pid)
    return Usage(process.num_fds(), process.memory_info().rss, len(process.children(recursive=True)))


async def settled(web: Program) -> Usage:
    """Return the usage when it has stopped falling."""
    usage = now(web)
    while True:
        await asyncio.sleep(0.5)
        later = now(web)
        if later.descriptors >= usage.descriptors and later.children >= usage.children:
            return usage
        usage = later


async def grown(web: Program, before: Usage) -> list[str]:
    """Wait until the process holds what it held before; return what it holds more."""
    end = time.monotonic() + SETTLE_SECONDS
    while (found := _more(before, now(web))) and time.monotonic() < end:
        await asyncio.sleep(0.2)
    return found


def _more(before: Usage, after: Usage) -> list[str]:
    found = []
    if (more := after.descriptors - before.descriptors) > SPARE_DESCRIPTORS:
        found.append(f"server: {more} descriptors more")
    if (more := after.resident - before.resident) > LEAK_BYTES:
        found.append(f"server: {more / 2**20:.0f} MiB more")
    if after.children > max(before.children, IMAGE_PROCESSES):
        found.append(f"server: {after.children} child processes, {before.children} before")
    return found


async def erase_all(cluster: Cluster) -> None:
    """Erase every session, as its owner would."""
    async with cluster.services() as services:
        async with services.database.connections.read() as connection:
            rows = (await connection.execute(select(tables.sessions.c.id, tables.sessions.c.owner))).all()
        for id, owner in rows:
            with contextlib.suppress(TryOnError):  # erased as a retry of another
                await services.sessions.erasure.delete(str(id), owner)


async def remaining(cluster: Cluster) -> list[str]:
    """Wait until nothing of any session is stored; return what stays."""
    scratch = cluster.folder / "scratch"
    async with cluster.services() as services:
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            left = await remains(cluster, services.database.connections.engine)
            found = [f"{each.what} left: {each.name}" for each in left]
            found += [f"temporary file left: {path.name}" for path in scratch.rglob("*") if path.is_file()]
            if not found or time.monotonic() > end:
                return found
            await asyncio.sleep(0.2)


def family(web: Program) -> list[psutil.Process]:
    """Return the server's processes; none if it has ended."""
    if not web.running:
        return []
    process = psutil.Process(web.pid)
    return [process, *process.children(recursive=True)]


async def left(processes: list[psutil.Process]) -> list[str]:
    """Return those that are alive after their server's end, and end them."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=END_SECONDS)
    found = [f"process left: {each}" for each in alive if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    for each in alive:
        with contextlib.suppress(psutil.Error):
            each.kill()
    return found
