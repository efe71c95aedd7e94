"""Runs a soak: the cluster, its clients, its faults, and the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import create_async_engine

from faults.soak.breakages import breakages
from faults.soak.leftovers import leftovers
from faults.soak.plan import Soak
from faults.soak.trail import exporting
from server.chaos.http import Network
from server.chaos.people import World
from server.chaos.plans import photos, plans
from server.chaos.records import Fault, GaveUp, Quiet, Recorder, Trouble
from server.chaos.run import come, judge, while_things_break
from server.chaos.verdict import Verdict
from server.system.clock import SystemClock
from server.system.processes import raise_file_limit
from testkit.cluster import Cluster, running_cluster
from testkit.profiles import FAULTS
from testkit.report import heading

ADDRESSES: Final = [f"127.{16 + n // 8}.7.{10 + n % 8}" for n in range(256)]
DISK_BYTES: Final = 256 * 2**20


async def run(soak: Soak, record: Recorder) -> None:
    """Run everything but the verdict."""
    raise_file_limit()
    heading(f"soak: {soak.sessions} sessions, {soak.rate:g} a second, seed {soak.seed}", soak.settings)
    disk = DISK_BYTES if os.geteuid() == 0 else None
    async with running_cluster(
        disk_bytes=disk, valkey_options=("--appendonly", "yes"), **(FAULTS | soak.settings | soak.form)
    ) as cluster:
        network = Network(cluster.url, sources=ADDRESSES)
        choice = random.Random(soak.seed)
        faults = breakages(cluster, network, choice, soak)
        print(f"# {len(faults)} kinds of fault, one every {soak.every:g} s: {', '.join(faults) or 'none'}")
        world = World(network, record, photos(soak.seed), patience=soak.deadline_seconds, clock=SystemClock())
        engine = create_async_engine(_database(cluster), pool_pre_ping=True)  # PostgreSQL restarts
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
            for each in await leftovers(cluster, engine, soak, record.records):
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
    """Return the stack traces in the logs of the product; none is expected.

    ``keep``: a folder to copy the logs to.
    """
    if keep is not None:
        shutil.copytree(cluster.logs, keep, dirs_exist_ok=True)
    found = []
    for log in sorted(cluster.logs.glob("*.log")):
        text = log.read_text(errors="replace")
        if traces := text.count("Traceback (most recent call last)"):
            print(f"{log.name}: {traces} stack traces, the last one:", file=sys.stderr)
            print(text[text.rindex("Traceback") :][:20_000], file=sys.stderr)
            found.append(Trouble(t=time.time(), who=log.name, what=f"{traces} stack traces"))
    return found


def main(soak: Soak) -> Verdict:
    """Run it and print the verdict."""
    import uvloop

    with contextlib.ExitStack() as stack:
        record = Recorder(None if soak.record is None else stack.enter_context(soak.record.open("wb")))
        uvloop.run(run(soak, record))
    return judge(record.records, stale_seconds=soak.stale_seconds, stuck_seconds=soak.stuck_seconds)
