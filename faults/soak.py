"""``python -m faults soak``: ten thousand sessions while everything breaks, and every
promise checked afterwards.

A whole cluster (two web processes on one port, two workers, Valkey with its append-only
file, the database) is hurt every few seconds, in an order drawn from a seed, while
people come at a steady rate from many loopback addresses (:mod:`server.chaos`).
Sessions live for a short time only, so that their expiry is a part of it; at the end
nothing may be left. Exit status 1 if the checker finds anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from server.adapters.database import tables
from server.adapters.files.local import DRAFT_SUFFIX
from server.chaos.http import Network
from server.chaos.people import World
from server.chaos.plans import photos, plans
from server.chaos.records import (
    Accepted,
    AnyRecord,
    Audit,
    Fault,
    GaveUp,
    Quiet,
    Recorder,
    Remains,
    Transition,
    Trouble,
)
from server.chaos.run import FaultFailed, come, judge, while_things_break
from server.chaos.verdict import Verdict
from server.domain.session import timestamp
from server.system.clock import SystemClock
from server.system.processes import raise_file_limit
from testkit.cluster import Cluster, running_cluster
from testkit.damage import frozen_valkey, full_disk, full_valkey, locked_sqlite, restart_postgres
from testkit.profiles import FAULTS
from testkit.programs import Program
from testkit.report import heading

ADDRESSES: Final = [f"127.{16 + n // 8}.7.{10 + n % 8}" for n in range(256)]
DISK_BYTES: Final = 256 * 2**20
EXPORT_SECONDS: Final = 1.0
REREAD_SECONDS: Final = 60.0
"""Rows of the audit trail younger than this are read again: on PostgreSQL they don't
appear in the order of their position.
"""

GONE_SECONDS: Final = 65.0
"""After the last expiry nothing may be left: 5 s are promised where all is well, 60 s
after storage or Redis were away.
"""

EXIT_SECONDS: Final = 15.0
"""After SIGTERM; 5 s are promised where nothing else needs the processor."""

KILL_SECONDS: Final = 5.0
"""A file that a killed process left was written so short before or after."""

SESSION_ID: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """What was asked for; times in seconds, ``rate`` in sessions a second."""

    sessions: int = 10_000
    rate: float = 20.0
    seed: int = 1
    every: float = 12.0
    mock_seconds: float = 0.5
    lease_seconds: float = 5.0
    deadline_seconds: float = 60.0
    retention_seconds: float = 90.0
    stale_seconds: float = 5.0
    stuck_seconds: float = 30.0
    postgres: bool = False
    only: tuple[str, ...] = ()
    record: Path | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Of the product, where they are not its defaults."""
        return {
            "upload_rate": "6000/minute",
            "sockets_per_address": 20000,
            "mock_seconds": self.mock_seconds,
            "mock_failure_rate": 0.1,
            "mock_seed": self.seed,
            "worker_jobs": 20,
            "lease_seconds": self.lease_seconds,
            "deadline_seconds": self.deadline_seconds,
            "retention_seconds": self.retention_seconds,
            "cleanup_seconds": 3,
            "queue_limit": 10_000,
            "log_level": "warning",
            "log_format": "text",
        }

    @property
    def quiet_seconds(self) -> float:
        """After the last deadline everybody must have seen the end; whoever was cut off
        waits for up to 30 s.
        """
        return 10 + 20 * self.scale

    @property
    def scale(self) -> float:
        """Of how long things stay broken: the shorter the time between two faults, the
        shorter they are.
        """
        return self.every / 12


# -- what can break --------------------------------------------------------------------


class Faults:
    """Each method breaks one thing and mends it again; its name is the fault's, and
    what it returns is printed.
    """

    def __init__(self, cluster: Cluster, network: Network, choice: random.Random, soak: Soak) -> None:
        self._cluster = cluster
        self._network = network
        self._choice = choice
        self._soak = soak

    def table(self) -> Mapping[str, Callable[[], Awaitable[str]]]:
        """Every fault that this cluster can have."""
        names = [name for name, method in vars(Faults).items() if not name.startswith("_") and name != "table"]
        without = {"postgresql_restarted"} if self._cluster.postgres is None else {"sqlite_locked"}
        if os.geteuid() != 0:
            without.add("disk_full")
        chosen = [name for name in names if name not in without and (not self._soak.only or name in self._soak.only)]
        return {name.replace("_", " "): getattr(self, name) for name in chosen}

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._soak.scale)

    async def web_killed(self) -> str:
        return await self._killed(self._choice.choice(self._cluster.webs))

    async def worker_killed(self) -> str:
        return await self._killed(self._choice.choice(self._cluster.workers))

    async def _killed(self, program: Program) -> str:
        await program.kill()
        await self._pause(1)
        await program.start()
        return program.name

    async def web_stopped(self) -> str:
        return await self._stopped(self._choice.choice(self._cluster.webs))

    async def worker_stopped(self) -> str:
        return await self._stopped(self._choice.choice(self._cluster.workers))

    async def _stopped(self, program: Program) -> str:
        """Raises FaultFailed unless it ends by itself, well and in time."""
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
        """For longer than its leases: it comes back as a zombie that holds nothing any
        more.
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
        """As when the power goes, and comes back."""
        programs = [*self._cluster.webs, *self._cluster.workers]
        await asyncio.gather(*(program.kill() for program in programs), asyncio.to_thread(self._cluster.valkey.kill))
        await asyncio.to_thread(self._cluster.valkey.start)
        for program in programs:
            await program.start()
        return "web, workers and Valkey"

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


# -- what is read while it runs, and at the end ----------------------------------------


class Trail:
    """The audit trail, read from the database itself before it expires, past the
    product's own code for it.
    """

    def __init__(self, engine: AsyncEngine, record: Recorder) -> None:
        self._engine = engine
        self._record = record
        self._known: dict[tuple[str, int], Transition] = {}
        self._since = 0

    async def follow(self) -> None:
        while True:
            await asyncio.sleep(EXPORT_SECONDS)
            with contextlib.suppress(SQLAlchemyError, OSError):  # locked, or starting again: next time
                await self.read()

    async def read(self) -> None:
        table = tables.events.c
        query = select(
            table.position, table.session_id, table.seq, table.event, table.from_status, table.status, table.at
        )
        async with self._engine.connect() as connection:
            rows = (await connection.execute(query.where(table.position > self._since).order_by(table.position))).all()
        news: dict[str, list[Transition]] = defaultdict(list)
        now = time.time()
        for position, session_id, seq, event, before, status, at in rows:
            transition = Transition(seq, event, before, status, timestamp(at))
            if self._known.setdefault((session_id, seq), transition) is transition:
                news[session_id].append(transition)
            if at.timestamp() < now - REREAD_SECONDS:
                self._since = max(self._since, position)
        for session_id, events in news.items():
            self._record(Audit(t=now, session=session_id, events=events))


async def remains(cluster: Cluster, engine: AsyncEngine) -> list[Remains]:
    """Files, rows and keys that speak of any session."""
    now = time.time()
    found = []
    for path in sorted((cluster.data / "uploads").rglob("*")):
        if path.is_file():
            found.append(Remains(t=now, what="file", name=str(path.relative_to(cluster.data))))
    async with engine.connect() as connection:
        for table in (tables.sessions, tables.events):
            count = (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            if count:
                found.append(Remains(t=now, what="row", name=f"{count} of {table.name}"))
    for key in await cluster.valkey.command("KEYS", "*"):
        if SESSION_ID.search(key):
            found.append(Remains(t=now, what="key", name=key.decode()))
    for job in await cluster.valkey.command("ZRANGE", "tryon:queue", 0, -1):
        found.append(Remains(t=now, what="job", name=job.decode()))
    return found


async def gone(cluster: Cluster, engine: AsyncEngine, soak: Soak, records: Sequence[AnyRecord]) -> list[Remains]:
    """What is left when all sessions have expired.

    A photo whose upload was killed, and half a file of a writer that was, are cleaned
    up when they are an hour old: so old they are made. Any other has nobody to excuse
    it.
    """
    end = time.monotonic() + soak.retention_seconds + GONE_SECONDS
    accepted = {each.session for each in records if isinstance(each, Accepted)}
    kills = [each for each in records if isinstance(each, Fault)]
    orphans: set[str] = set()
    while (left := await remains(cluster, engine)) and time.monotonic() < end:
        for name in {each.name for each in left if each.what == "file"} - orphans:
            path = cluster.data / name
            with contextlib.suppress(FileNotFoundError):
                if orphaned(name, path.stat().st_mtime, accepted, kills):
                    orphans.add(name)
                    os.utime(path, (time.time() - 7200, time.time() - 7200))
        await asyncio.sleep(1)
    if orphans:
        print(f"# {len(orphans)} files whose writer was killed were made two hours old")
    return left


def orphaned(name: str, written: float, accepted: Collection[str], faults: Iterable[Fault]) -> bool:
    """Whether the one who wrote this file, and nobody else, can have been killed over
    it.
    """
    found = SESSION_ID.search(name.encode())
    draft = name.endswith(DRAFT_SUFFIX)
    if found is None or (found[0].decode() in accepted and not draft):
        return False
    killers = {"web killed", "everything killed"} | ({"worker killed"} if draft else set())
    return any(fault.name in killers and abs(written - fault.t) <= KILL_SECONDS for fault in faults)


@contextlib.asynccontextmanager
async def exporting(engine: AsyncEngine, record: Recorder) -> AsyncIterator[Trail]:
    trail = Trail(engine, record)
    task = asyncio.create_task(trail.follow())
    try:
        yield trail
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def run(soak: Soak, record: Recorder) -> None:
    """Everything but the verdict."""
    raise_file_limit()
    heading(f"soak: {soak.sessions} sessions, {soak.rate:g} a second, seed {soak.seed}", soak.settings)
    disk = DISK_BYTES if os.geteuid() == 0 else None
    async with running_cluster(
        webs=2,
        workers=2,
        postgres=soak.postgres,
        disk_bytes=disk,
        valkey_options=("--appendonly", "yes"),
        **(FAULTS | soak.settings),
    ) as cluster:
        network = Network(cluster.url, sources=ADDRESSES)
        choice = random.Random(soak.seed)
        faults = Faults(cluster, network, choice, soak).table()
        print(f"# {len(faults)} kinds of fault, one every {soak.every:g} s: {', '.join(faults)}")
        world = World(network, record, photos(soak.seed), patience=soak.deadline_seconds, clock=SystemClock())
        engine = create_async_engine(_database(cluster))
        people = come(world, plans(soak.seed), sessions=soak.sessions, rate=soak.rate)
        try:
            async with exporting(engine, record) as trail:
                bound = soak.sessions / soak.rate + soak.deadline_seconds + soak.quiet_seconds
                try:
                    async with asyncio.timeout(bound):
                        await while_things_break(
                            people, faults, every=soak.every, choice=choice, record=record, clock=world.clock
                        )
                except TimeoutError:
                    record(GaveUp(t=time.time(), owner="some", call=f"waiting, {bound:.0f} s after the first one came"))
                await trail.read()
            record(Quiet(t=time.time()))
            for each in await gone(cluster, engine, soak, record.records):
                record(each)
            happened = {each.name for each in record.records if isinstance(each, Fault)}
            if missing := sorted(set(faults) - happened):
                print(f"# the run was too short for {len(missing)} kinds of fault: {', '.join(missing)}")
        finally:
            await engine.dispose()
            for trouble in stack_traces(cluster, soak.record and soak.record.with_suffix(".logs")):
                record(trouble)


def _database(cluster: Cluster) -> str:
    if cluster.postgres is not None:
        return cluster.postgres.url("tryon")
    return f"sqlite+aiosqlite:///{cluster.data / 'tryon.sqlite3'}"


def stack_traces(cluster: Cluster, keep: Path | None) -> list[Trouble]:
    """In the logs of the product: none is expected, whatever breaks.

    ``keep``: a folder to copy them to.
    """
    if keep is not None:
        shutil.copytree(cluster.logs, keep, dirs_exist_ok=True)
    found = []
    for log in sorted(cluster.logs.glob("*.log")):
        text = log.read_text(errors="replace")
        if traces := text.count("Traceback (most recent call last)"):
            print(f"{log.name}: {traces} stack traces, the last one:", file=sys.stderr)
            print(text[text.rindex("Traceback") :][:4000], file=sys.stderr)
            found.append(Trouble(t=time.time(), who=log.name, what=f"{traces} stack traces"))
    return found


def main(soak: Soak) -> Verdict:
    """Run it and print the verdict."""
    import uvloop

    with contextlib.ExitStack() as stack:
        record = Recorder(None if soak.record is None else stack.enter_context(soak.record.open("wb")))
        uvloop.run(run(soak, record))
    return judge(record.records, stale_seconds=soak.stale_seconds, stuck_seconds=soak.stuck_seconds)
