"""The remains of a soak's sessions when all of them have expired."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from faults.soak.plan import Soak
from server.adapters.database import tables
from server.adapters.files.local import DRAFT_SUFFIX
from server.adapters.files.object_store import PROBE_KEY
from server.chaos.records import Accepted, AnyRecord, Fault, Remains
from testkit.cluster import Cluster

GONE_SECONDS: Final = 65.0
"""Time after the last expiry when nothing may be left: 5 s are promised where all is
well, 60 s after storage or Redis were unavailable.
"""

KILL_SECONDS: Final = 5.0
"""Longest time between a kill and the last write of a file that the killed process
left.
"""

SESSION_ID: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")

PROBE_PREFIX: Final = PROBE_KEY.partition("{")[0]
"""Beginning of the names of objects that no session has; one may outlive a fault."""


async def remains(cluster: Cluster, engine: AsyncEngine) -> list[Remains]:
    """Return the files, rows and keys that speak of any session."""
    now = time.time()
    found = []
    if cluster.s3 is not None:
        names = [name for name in cluster.s3.keys("cluster") if not name.startswith(PROBE_PREFIX)]
        found = [Remains(t=now, what="file", name=f"uploads/{name}") for name in names]
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


async def leftovers(cluster: Cluster, engine: AsyncEngine, soak: Soak, records: Sequence[AnyRecord]) -> list[Remains]:
    """Wait until all sessions have expired; return the remains.

    A photo whose upload was killed, and half a file of a killed writer, are cleaned up
    when they are an hour old: they are made older than that, or in a bucket deleted. No
    other file is excused.
    """
    end = time.monotonic() + soak.retention_seconds + GONE_SECONDS
    accepted = {each.session for each in records if isinstance(each, Accepted)}
    kills = [each for each in records if isinstance(each, Fault)]
    orphans: set[str] = set()
    while (left := await remains(cluster, engine)) and time.monotonic() < end:
        for name in {each.name for each in left if each.what == "file"} - orphans:
            if cluster.s3 is not None:
                key = name.removeprefix("uploads/")
                written = cluster.s3.written("cluster", key)
                if written is not None and orphaned(name, written, accepted, kills):
                    orphans.add(name)
                    cluster.s3.delete("cluster", key)  # a bucket says itself how old its objects are
                continue
            path = cluster.data / name
            with contextlib.suppress(FileNotFoundError):
                if orphaned(name, path.stat().st_mtime, accepted, kills):
                    orphans.add(name)
                    os.utime(path, (time.time() - 7200, time.time() - 7200))
        await asyncio.sleep(1)
    if orphans:
        done = "made two hours old" if cluster.s3 is None else "deleted"
        print(f"# {len(orphans)} files whose writer was killed were {done}")
    return left


def orphaned(name: str, written: float, accepted: Collection[str], faults: Iterable[Fault]) -> bool:
    """Return whether the process that wrote this file can have been killed over it."""
    found = SESSION_ID.search(name.encode())
    draft = name.endswith(DRAFT_SUFFIX)
    if found is None or (found[0].decode() in accepted and not draft):
        return False
    killers = {"web killed", "everything killed"} | ({"worker killed"} if draft else set())
    return any(fault.name in killers and abs(written - fault.t) <= KILL_SECONDS for fault in faults)
