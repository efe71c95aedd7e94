"""The cost of submits, places, deletions and runs against the length of the queue.

In the form of production: PostgreSQL, and a Valkey with an append-only file. Submits
and readings of the queue are this process's own, pick-ups those of a real worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from benchmarks.installation import running_installation
from benchmarks.scaling.curves import Curve, Goal
from server.domain.bus_message import progress_message
from server.domain.session import Progress, timestamp
from server.services import Services
from server.sessions.queue_places import QueuePlaces
from testkit.cluster import Cluster
from testkit.costs import cpu_seconds, tree_cpu_seconds
from testkit.crowds import add_sessions, numbered_id
from testkit.load import OWNER, queue
from testkit.profiles import BENCHMARK
from tryon.protocol.states import Status

SETTINGS: Final = BENCHMARK | {
    "deadline_seconds": 86000,
    "mock_seconds": 0.1,
    "mock_failure_rate": 0,
    "worker_jobs": 4,
}

LATER_SECONDS: Final = 3600
"""Time by which sessions that only fill the queue seem to be younger."""

READINGS: Final = 9
"""How often the queue is read at each size, in each repeat."""


REPORTS: Final = 20
"""Reports of progress of each session."""


class Used(NamedTuple):
    """CPU microseconds of one session."""

    own: float
    """CPU time of the process that makes the calls."""
    valkey: float
    database: float
    all: float | None = None
    """CPU time of that process and all its descendants."""

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float], sessions: int) -> Used:
        """Return what one session took of CPU seconds, in the order of the fields."""
        return cls(*((end - start) / sessions * 1e6 for start, end in zip(before, after, strict=True)))


def _curves() -> dict[str, Curve]:
    """Return the empty curves of this part, by a short name."""
    curves = {"places": Curve("CPU us to read the places of all", Goal.LINEAR)}
    for name, what in (
        ("submit", "a submit"),
        ("delete", "a deletion"),
        ("run", "a session's run"),
        ("report", "a report of progress"),
    ):
        curves[f"{name} own"] = Curve(f"CPU us of {what}", Goal.FLAT)
        curves[f"{name} valkey"] = Curve(f"Valkey CPU us of {what}", Goal.FLAT)
        curves[f"{name} database"] = Curve(f"PostgreSQL CPU us of {what}", Goal.FLAT)
    del curves["report database"]  # progress is in Redis alone
    curves["run own"].cost = "worker CPU us of a session's run, its pick-up included"
    curves["run all"] = Curve("CPU us of a session's run with the session's own process", Goal.FLAT)
    return curves


async def measure(*, queued: Sequence[int], sessions: int, repeats: int) -> list[Curve]:
    """Let the queue grow through all sizes, in each repeat.

    ``sessions``: those that are submitted (the last ones of the size), deleted, and
    picked up, at each size.
    """
    curves = _curves()
    for _ in range(repeats):
        async with running_installation(postgres=True, **SETTINGS) as cluster, cluster.services() as services:
            await cluster.web.terminate()  # its own chores would be counted
            for size in sorted(queued):
                await _fill(services, size - sessions)
                submit, made = await _submitted(cluster, services, size - await services.queue.depth())
                for _ in range(READINGS):
                    curves["places"].add(size, await _read_places(services))
                report = await _reported(cluster, services, made)
                delete = await _deleted(cluster, services, made)
                await queue(services, len(made))
                run = await _picked_up(cluster, services, size, submit, sessions)
                found = (
                    _named("submit", submit) | _named("delete", delete) | _named("run", run) | _named("report", report)
                )
                for name, curve in curves.items():
                    if name in found:
                        curve.add(size, found[name])
    return list(curves.values())


async def _fill(services: Services, size: int) -> None:
    """Add sessions without photos to the queue until it has ``size``."""
    depth = await services.queue.depth()
    if size <= depth:
        return
    await add_sessions(services.database, {Status.CREATED: size - depth}, first=depth)
    last = int((services.clock.wall() + LATER_SECONDS) * 1000)
    for n in range(depth, size):
        await services.queue.enqueue(numbered_id(n + 1), 1, 1, score_ms=last + n)


def _named(name: str, used: Used) -> dict[str, float]:
    """Return the figures by the names of their curves, without those that have none."""
    return {f"{name} {part}": value for part, value in used._asdict().items() if value is not None}


async def _submitted(cluster: Cluster, services: Services, sessions: int) -> tuple[Used, list[str]]:
    """Submit; return the CPU microseconds of each session, and their ids."""
    before = [time.process_time(), *_servers(cluster)]
    made = await queue(services, sessions)
    return Used.of(before, [time.process_time(), *_servers(cluster)], sessions), [each.id for each, _ in made]


async def _reported(cluster: Cluster, services: Services, ids: Sequence[str]) -> Used:
    """Publish progress of all sessions at once, again and again, as many workers do."""
    before = [time.process_time(), *_servers(cluster)]
    for n in range(REPORTS):
        progress = Progress(2, 1, timestamp(datetime.now(UTC)), n / REPORTS, "rendering", 1.0)
        await asyncio.gather(
            *(services.bus.publish_progress(id, progress, progress_message(id, progress)) for id in ids)
        )
    return Used.of(before, [time.process_time(), *_servers(cluster)], len(ids) * REPORTS)


async def _deleted(cluster: Cluster, services: Services, ids: Sequence[str]) -> Used:
    """Delete sessions as their owner does; return the CPU microseconds of each."""
    before = [time.process_time(), *_servers(cluster)]
    for id in ids:
        await services.sessions.erasure.delete(id, OWNER)
    return Used.of(before, [time.process_time(), *_servers(cluster)], len(ids))


async def _read_places(services: Services) -> float:
    """Read the places of all waiting sessions as a web process does; return CPU us."""
    config = services.config
    places = QueuePlaces(
        queue=services.queue, processor=config.processor, queue_limit=config.queue_limit, worker_jobs=config.worker_jobs
    )
    before = time.process_time()
    await places.current()
    return (time.process_time() - before) * 1e6


async def _picked_up(cluster: Cluster, services: Services, size: int, submit: Used, sessions: int) -> Used:
    """Have a worker run sessions while as many are submitted as it takes.

    Return the CPU microseconds of each, without those of the ``submit``.
    """
    worker = cluster.make_worker()
    await worker.start()
    await _replaced(services, size, SETTINGS["worker_jobs"] * 2)  # what is loaded once, is loaded now
    before = [cpu_seconds(worker.pid), *_servers(cluster), tree_cpu_seconds(worker.pid)]
    replaced = await _replaced(services, size, sessions)
    used = Used.of(before, [cpu_seconds(worker.pid), *_servers(cluster), tree_cpu_seconds(worker.pid)], replaced)
    await worker.close()
    return used._replace(valkey=used.valkey - submit.valkey, database=used.database - submit.database)


async def _replaced(services: Services, size: int, sessions: int) -> int:
    """Replace the sessions that a worker takes, until they are this many or more."""
    replaced = 0
    async with asyncio.timeout(120):
        while replaced < sessions:
            await asyncio.sleep(0.02)
            taken = size - await services.queue.depth()
            await queue(services, taken)
            replaced += taken
    return replaced


def _servers(cluster: Cluster) -> tuple[float, float]:
    """Return the CPU seconds of Valkey and of all processes of PostgreSQL."""
    assert cluster.postgres is not None
    return cpu_seconds(cluster.valkey.pid), tree_cpu_seconds(cluster.postgres.pid)
