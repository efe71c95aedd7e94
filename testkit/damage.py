"""Damage to the servers of a cluster.

Each function breaks one thing; a context manager mends it when its block ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg

from testkit.cluster import Cluster
from testkit.programs import Program
from testkit.servers import ValkeyServer

# -- Valkey ----------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def full_valkey(valkey: ValkeyServer) -> AsyncIterator[None]:
    """Run Valkey out of memory, without eviction.

    It refuses every command that would add something.
    """
    await valkey.command("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")
    try:
        yield
    finally:
        await valkey.command("CONFIG", "SET", "maxmemory", "0")


@contextlib.contextmanager
def frozen_valkey(valkey: ValkeyServer) -> Iterator[None]:
    """Freeze Valkey: connections stay open, nothing answers."""
    valkey.pause()
    try:
        yield
    finally:
        valkey.resume()


async def overrun_subscribers(valkey: ValkeyServer, channel: str, message: bytes, *, copies: int = 400) -> bool:
    """Have Valkey cut off a channel's subscribers; return whether it had any.

    It does so by its own limit on output buffers.
    """
    await valkey.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 32768 1")
    # One turn of Valkey's loop: nothing is written to the subscribers meanwhile.
    async with valkey.client() as client, client.pipeline(transaction=True) as pipe:
        for _ in range(copies):
            pipe.publish(channel, message)
        receivers = await pipe.execute()
    await valkey.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 33554432 8388608 60")
    return any(receivers)


# -- databases -------------------------------------------------------------------------


@contextlib.contextmanager
def locked_sqlite(cluster: Cluster, busy_seconds: float = 10.0) -> Iterator[None]:
    """Hold the one write lock of the SQLite file."""
    with contextlib.closing(sqlite3.connect(cluster.data / "tryon.sqlite3", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA busy_timeout={int(busy_seconds * 1000)}")
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


async def restart_postgres(cluster: Cluster) -> None:
    """Restart PostgreSQL as ``pg_ctl restart -m immediate`` does."""
    assert cluster.postgres is not None
    await asyncio.to_thread(cluster.postgres.kill)
    await asyncio.to_thread(cluster.postgres.start_again)


@contextlib.asynccontextmanager
async def exhausted_postgres(cluster: Cluster) -> AsyncIterator[int]:
    """Take every connection of PostgreSQL; yield their number.

    The product's connections are ended and taken, too.
    """
    assert cluster.postgres is not None
    url = cluster.postgres.url("tryon", "postgresql")
    taken: list[asyncpg.Connection] = []
    try:
        while True:
            try:
                taken.append(await asyncpg.connect(url))
            except asyncpg.TooManyConnectionsError:
                if not await _end_others(taken):
                    break
        yield len(taken)
    finally:
        for connection in taken:
            await connection.close()


async def _end_others(ours: list[asyncpg.Connection]) -> int:
    """End the product's connections, so that they can be taken; return their number."""
    rows = await ours[0].fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> ALL($1::int[])",
        [connection.get_server_pid() for connection in ours],
    )
    return len(rows)


# -- processes and disks ---------------------------------------------------------------


async def freeze(cluster: Cluster, program: Program) -> None:
    """Freeze a program (SIGSTOP) while it does not hold SQLite's one write lock.

    A process that is frozen with the lock stops all others.
    """
    while True:
        program.freeze()
        try:
            with locked_sqlite(cluster, busy_seconds=0.1) if cluster.postgres is None else contextlib.nullcontext():
                return
        except sqlite3.OperationalError:
            program.thaw()
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def full_disk(cluster: Cluster) -> Iterator[None]:
    """Fill the file system of photos and results (``disk_bytes``) to the last byte."""
    fill_up(cluster)
    try:
        yield
    finally:
        _ballast(cluster).unlink()


def fill_up(cluster: Cluster) -> None:
    """Fill what is free, as a program does that goes on writing."""
    assert (cluster.data / "uploads").stat().st_dev != cluster.folder.stat().st_dev, "it has no disk of its own"
    with _ballast(cluster).open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def _ballast(cluster: Cluster) -> Path:
    return cluster.data / "uploads" / "ballast"
