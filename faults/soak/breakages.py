"""Everything that can break in a soak."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from faults.soak.plan import Soak
from server.chaos.http import Network
from server.chaos.run import FaultFailed
from testkit.balancers import Balancer
from testkit.cluster import Cluster
from testkit.damage import frozen_valkey, full_disk, full_valkey, locked_sqlite, restart_postgres
from testkit.object_store import S3Server
from testkit.programs import Program

EXIT_SECONDS: Final = 15.0
"""Longest exit after SIGTERM; 5 s are promised on an idle machine."""


class ProgramBreakages:
    """Faults of web processes and workers: each public method breaks and mends.

    Its name is the fault's, and its return value is printed.
    """

    def __init__(self, cluster: Cluster, choice: random.Random, soak: Soak) -> None:
        self._cluster = cluster
        self._choice = choice
        self._soak = soak

    def __repr__(self) -> str:
        return f"<ProgramBreakages of {self._cluster!r}>"

    async def web_killed(self) -> str:
        return await self._killed(self._choice.choice(self._cluster.webs))

    async def worker_killed(self) -> str:
        return await self._killed(self._choice.choice(self._cluster.workers))

    async def _killed(self, program: Program) -> str:
        await program.kill()
        await asyncio.sleep(self._soak.scale)
        await program.start()
        return program.name

    async def web_stopped(self) -> str:
        return await self._stopped(self._choice.choice(self._cluster.webs))

    async def worker_stopped(self) -> str:
        return await self._stopped(self._choice.choice(self._cluster.workers))

    async def _stopped(self, program: Program) -> str:
        """Stop a program and start it again.

        Raises FaultFailed unless it ends by itself, well and in time.
        """
        began = time.monotonic()
        try:
            status = await program.terminate()
        except TimeoutError:
            raise FaultFailed(f"{program.name} did not end within 20 s of SIGTERM") from None
        seconds = time.monotonic() - began
        if status not in (0, -signal.SIGTERM) or seconds > EXIT_SECONDS:
            raise FaultFailed(f"{program.name} ended with {status}, {seconds:.1f} s after SIGTERM")
        await program.start()
        return f"{program.name}, gone after {seconds:.1f} s"

    async def web_frozen(self) -> str:
        return await self._frozen(self._choice.choice(self._cluster.webs), 3 * self._soak.scale)

    async def worker_frozen(self) -> str:
        """Freeze a worker for longer than its leases.

        It comes back as a zombie that holds nothing any more.
        """
        return await self._frozen(self._choice.choice(self._cluster.workers), self._soak.lease_seconds + 2.5)

    async def _frozen(self, program: Program, seconds: float) -> str:
        program.freeze()
        try:
            await asyncio.sleep(seconds)
        finally:
            program.thaw()
        return f"{program.name} for {seconds:.1f} s"

    async def everything_killed(self) -> str:
        """Kill everything, as when the power goes, and start it again."""
        programs = [*self._cluster.webs, *self._cluster.workers]
        await asyncio.gather(*(program.kill() for program in programs), asyncio.to_thread(self._cluster.valkey.kill))
        await asyncio.to_thread(self._cluster.valkey.start)
        for program in programs:
            await program.start()
        return "web, workers and Valkey"


class ServerBreakages:
    """Faults of Valkey, the database, the disk and the network, likewise."""

    def __init__(self, cluster: Cluster, network: Network, choice: random.Random, soak: Soak) -> None:
        self._cluster = cluster
        self._network = network
        self._choice = choice
        self._soak = soak

    def __repr__(self) -> str:
        return f"<ServerBreakages of {self._cluster!r}>"

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._soak.scale)

    async def valkey_killed(self) -> str:
        await asyncio.to_thread(self._cluster.valkey.kill)
        await self._pause(2)
        await asyncio.to_thread(self._cluster.valkey.start)
        return "back with its append-only file"

    async def valkey_emptied(self) -> str:
        await asyncio.to_thread(self._cluster.valkey.kill)
        for file in (self._cluster.valkey.folder / "appendonlydir").glob("*"):
            file.unlink()
        await asyncio.to_thread(self._cluster.valkey.start)
        return "killed, back with nothing"

    async def valkey_frozen(self) -> str:
        with frozen_valkey(self._cluster.valkey):
            await self._pause(5)
        return ""

    async def valkey_full(self) -> str:
        async with full_valkey(self._cluster.valkey):
            await self._pause(5)
        return "without eviction"

    async def subscribers_cut(self) -> str:
        return f"{await self._cluster.valkey.command('CLIENT', 'KILL', 'TYPE', 'pubsub')} connections"

    async def redis_connections_cut(self) -> str:
        cut = await self._cluster.valkey.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        return f"{cut} connections"

    async def clients_cut(self) -> str:
        return f"{self._network.cut(0.3, self._choice)} connections reset"

    async def sqlite_locked(self) -> str:
        def hold() -> None:
            with locked_sqlite(self._cluster):
                time.sleep(4 * self._soak.scale)

        await asyncio.to_thread(hold)
        return ""

    async def postgresql_restarted(self) -> str:
        await restart_postgres(self._cluster)
        return "-m immediate"

    async def disk_full(self) -> str:
        with full_disk(self._cluster):
            await self._pause(3)
        return ""


class BucketBreakages:
    """Faults of the S3 server that keeps photos and results, likewise."""

    def __init__(self, server: S3Server, soak: Soak) -> None:
        self._server = server
        self._soak = soak

    def __repr__(self) -> str:
        return f"<BucketBreakages of {self._server!r}>"

    async def bucket_killed(self) -> str:
        await asyncio.to_thread(self._server.kill)
        await asyncio.sleep(self._soak.scale)
        await asyncio.to_thread(self._server.start)
        return "back with its objects"

    async def bucket_frozen(self) -> str:
        self._server.pause()
        try:
            await asyncio.sleep(3 * self._soak.scale)
        finally:
            self._server.resume()
        return ""


class ProxyBreakages:
    """Faults of the proxy in front of the production form, likewise."""

    def __init__(self, balancer: Balancer, soak: Soak) -> None:
        self._balancer = balancer
        self._soak = soak

    def __repr__(self) -> str:
        return f"<ProxyBreakages of {self._balancer!r}>"

    async def proxy_killed(self) -> str:
        await self._balancer.kill()
        await asyncio.sleep(self._soak.scale)
        await self._balancer.start()
        return self._balancer.kind

    async def proxy_reloaded(self) -> str:
        await self._balancer.reload()
        return self._balancer.kind


KINDS: Final = tuple(
    name
    for group in (ProgramBreakages, ServerBreakages, BucketBreakages, ProxyBreakages)
    for name in vars(group)
    if not name.startswith("_")
)
"""Names of all faults, as methods."""


def breakages(
    cluster: Cluster, network: Network, choice: random.Random, soak: Soak
) -> Mapping[str, Callable[[], Awaitable[str]]]:
    """Return every fault that this cluster can have, by name."""
    if soak.calm:
        return {}
    without = {"postgresql_restarted"} if cluster.postgres is None else {"sqlite_locked"}
    if os.geteuid() != 0 or cluster.s3 is not None:
        without.add("disk_full")
    groups: list[object] = [ProgramBreakages(cluster, choice, soak), ServerBreakages(cluster, network, choice, soak)]
    if cluster.s3 is not None:
        groups.append(BucketBreakages(cluster.s3, soak))
    if cluster.balancer is not None:
        groups.append(ProxyBreakages(cluster.balancer, soak))
    chosen = [name for name in KINDS if name not in without and (not soak.only or name in soak.only)]
    return {name.replace("_", " "): getattr(group, name) for name in chosen for group in groups if hasattr(group, name)}
