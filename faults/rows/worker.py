"""A worker dies, freezes or is stopped, in every moment of a job.

Each session runs again or fails with a reason, and ends once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.scene import Scene, running_scene
from server.domain.session import AuditEvent
from testkit.damage import freeze, locked_sqlite
from testkit.programs import Program
from tryon.protocol.states import Event, Status

SESSIONS: Final = 8
"""Fewer than a worker runs at once."""


async def _running(scene: Scene, *, seconds: float, count: int = SESSIONS) -> list[str]:
    """Make sessions that are being processed, each followed; return their ids."""
    made = await asyncio.gather(*(scene.clients.upload(seconds=seconds) for _ in range(count)))
    screens = [scene.clients.follow(*each) for each in made if each is not None]
    await scene.until(lambda: all(each.cursor >= 2 for each in screens))
    return [each.session for each in screens]


async def _frozen_before(scene: Scene, *, count: int) -> Program:
    """Freeze the worker, then upload and follow sessions; return the worker."""
    await freeze(scene.cluster, scene.cluster.worker)
    for made in await asyncio.gather(*(scene.clients.upload() for _ in range(count))):
        assert made is not None
        scene.clients.follow(*made)
    await scene.clients.live()
    return scene.cluster.worker


def _starts(trail: Sequence[AuditEvent]) -> list[AuditEvent]:
    return [event for event in trail if event.event is Event.PROCESSING]


def _end(trail: Sequence[AuditEvent]) -> tuple[str, str | None]:
    """Return the last status and error code of a trail."""
    error = trail[-1].data.get("error") or {}
    return trail[-1].status.value, error.get("code")


def _ended_as(scene: Scene, trails: dict[str, list[AuditEvent]], status: Status, code: str | None = None) -> None:
    for session_id, trail in trails.items():
        scene.expect(_end(trail) == (status.value, code), f"{session_id} ended as {_end(trail)}")


def _good_ending(scene: Scene) -> None:
    scene.promises.no_connection_lost()
    scene.promises.still_running(*scene.cluster.webs)
    scene.promises.nothing_stale()


async def _claimed_soon(scene: Scene) -> None:
    """Expect that every session completed, claimed within 10 s of the repair."""
    trails = await scene.trails()
    _ended_as(scene, trails, Status.COMPLETED)
    scene.promises.resumed(trails)
    scene.promises.within(scene.outcome.recovery_seconds or 0, 10.0, "the last one was claimed")
    _good_ending(scene)


async def killed(pace: Pace) -> Outcome:
    """Kill one of two workers in the middle of its jobs."""
    async with running_scene(pace, workers=2) as scene:
        one, other = scene.cluster.workers
        await freeze(scene.cluster, other)
        ids = await _running(scene, seconds=2.5)
        other.thaw()
        await one.kill()
        scene.repaired()
        await scene.finish()
        trails = await scene.trails()
        _ended_as(scene, trails, Status.COMPLETED)
        again = [starts[1].at.timestamp() for starts in map(_starts, trails.values()) if len(starts) > 1]
        scene.expect(len(again) >= len(ids) / 2, f"only {len(again)} of {len(ids)} were running when it was killed")
        runs = max(again, default=scene.repaired_at) - scene.repaired_at
        ends = max(trail[-1].at.timestamp() for trail in trails.values()) - scene.repaired_at
        scene.promises.within(runs, pace.lease_seconds * 20 / 12, "the last one ran again")
        scene.promises.within(ends, pace.lease_seconds * 30 / 12, "the last one ended")
        scene.outcome.recovery_seconds = runs
        scene.note(
            f"{len(again)} sessions ran again after {min(again, default=0) - scene.repaired_at:.1f} to {runs:.1f} s"
        )
        _good_ending(scene)
    return scene.outcome


async def all_killed(pace: Pace) -> Outcome:
    """Kill every worker; none comes back."""
    deadline = 3 * pace.lease_seconds
    async with running_scene(pace, workers=1, deadline_seconds=deadline) as scene:
        await _running(scene, seconds=60)
        for _ in range(4):
            await scene.submit()
        await scene.cluster.worker.kill()
        await scene.submit()
        await scene.finish()
        trails = await scene.trails()
        running = {
            session_id: trail for session_id, trail in trails.items() if trail[-1].status is not Status.COMPLETED
        }
        _ended_as(scene, running, Status.FAILED, "timeout")
        late = max((trail[-1].at - trail[0].at).total_seconds() - deadline for trail in running.values())
        scene.promises.within(late, 2.0, "the last one ended after its deadline")
        scene.expect(len(running) > SESSIONS, f"only {len(running)} were left when it was killed")
        scene.note(f"all {len(running)} `failed: timeout`, at most {max(0.0, late):.1f} s after their deadline")
        _good_ending(scene)
    return scene.outcome


async def killed_again(pace: Pace) -> Outcome:
    """Kill every worker that takes the session.

    It is given up after the last attempt.
    """
    async with running_scene(pace, workers=1) as scene:
        (session_id,) = await _running(scene, seconds=60, count=1)
        for attempt in range(1, 4):
            await scene.until(lambda attempt=attempt: scene.screens[0].cursor >= 2 * attempt)  # type: ignore[misc]
            await scene.cluster.worker.kill()
            if attempt < 3:
                await scene.cluster.worker.start()
        scene.repaired()
        await scene.finish()
        scene.recovered()
        trails = await scene.trails()
        _ended_as(scene, trails, Status.FAILED, "worker_lost")
        scene.expect(len(_starts(trails[session_id])) == 3, f"it ran {len(_starts(trails[session_id]))} times")
        scene.promises.within(
            scene.outcome.recovery_seconds or 0, pace.lease_seconds * 30 / 12, "it ended after the last kill"
        )
        scene.note("`failed: worker_lost` after three attempts")
        _good_ending(scene)
    return scene.outcome


async def zombie(pace: Pace) -> Outcome:
    """Freeze a worker until its leases have lapsed and another has taken over.

    Then it wakes up and goes on.
    """
    async with running_scene(pace, workers=1) as scene:
        ids = await _running(scene, seconds=max(2.5, pace.lease_seconds / 2))
        asleep = scene.cluster.worker
        await freeze(scene.cluster, asleep)
        await scene.cluster.make_worker().start()
        taken_over = [each for each in scene.screens if each.outcome is None]
        await scene.until(lambda: all(each.cursor >= 4 or each.outcome for each in taken_over))
        asleep.thaw()
        scene.repaired()
        await scene.finish()
        scene.recovered()
        trails = await scene.trails()
        _ended_as(scene, trails, Status.COMPLETED)
        again = 0
        for session_id in ids:
            starts = _starts(trails[session_id])
            again += len(starts) == 2
            ended_by, started_by = trails[session_id][-1].actor, starts[-1].actor
            scene.expect(ended_by == started_by, f"{session_id} was started by {started_by} and ended by {ended_by}")
        scene.expect(again >= len(ids) / 2, f"only {again} of {len(ids)} ran again")
        # It must have looked at each and let it go, and still be of use.
        more = await _running(scene, seconds=0.2)
        await scene.until(lambda: all(each.outcome for each in scene.screens[-len(more) :]))
        await scene.finish()
        scene.promises.still_running(*scene.cluster.workers)
        scene.note("what it still wrote changed nothing, its results were removed")
        _good_ending(scene)
    return scene.outcome


async def terminated(pace: Pace) -> Outcome:
    """Stop a worker (SIGTERM) with short and long jobs.

    The short ones end, the long ones are handed back without burning an attempt.
    """
    drain = 2.0 if pace.slack > 1 else 5.0
    async with running_scene(pace, workers=2, drain_seconds=drain) as scene:
        one, other = scene.cluster.workers
        await freeze(scene.cluster, other)
        short, long = await asyncio.gather(
            _running(scene, seconds=drain / 2 + 0.5, count=4), _running(scene, seconds=2 * drain + 1, count=4)
        )
        other.thaw()
        began = time.monotonic()
        status = await one.terminate(60)
        exit_seconds = time.monotonic() - began
        scene.repaired()
        await scene.finish()
        trails = await scene.trails()
        _ended_as(scene, trails, Status.COMPLETED)
        for session_id in short:
            scene.expect(len(_starts(trails[session_id])) == 1, "a job that could have ended was handed back")
        for session_id in long:
            reasons = [event.data["reason"] for event in trails[session_id] if event.event is Event.REQUEUED]
            scene.expect(reasons == ["drained"], f"a long job was handed back as {reasons}")
        burnt = [session.burnt for session in await scene.sessions()]
        scene.expect(not any(burnt), f"attempts were burnt: {burnt}")
        scene.expect(status == 0, f"it ended with {status}")
        again = max(_starts(trails[session_id])[-1].at.timestamp() for session_id in long)
        handed = min(event.at.timestamp() for i in long for event in trails[i] if event.event is Event.REQUEUED)
        scene.outcome.recovery_seconds = again - handed
        scene.promises.within(exit_seconds, drain + 3, "it was gone")
        scene.note(
            f"{len(short)} jobs ended, {len(long)} handed back and claimed {again - handed:.2f} s later, none burnt; "
            f"exit after {exit_seconds:.1f} s"
        )
        _good_ending(scene)
    return scene.outcome


async def killed_before_its_claim(pace: Pace) -> Outcome:
    """Kill a worker that took jobs out of the queue and has not claimed their sessions.

    It waits for SQLite's write lock, which the row holds.
    """
    async with running_scene(pace, workers=1, postgres=False) as scene, scene.cluster.services() as services:
        worker = await _frozen_before(scene, count=4)
        with locked_sqlite(scene.cluster):
            worker.thaw()
            async with asyncio.timeout(20):
                while await services.queue.depth():
                    await asyncio.sleep(0.01)
            await worker.kill()
        scene.repaired()
        await worker.start()
        await scene.finish()
        await _claimed_soon(scene)
    return scene.outcome


async def delivered_five_times(pace: Pace) -> Outcome:
    """Deliver the same jobs five times each, to two workers at once.

    They come once more after they have ended.
    """
    async with running_scene(pace, workers=2) as scene, scene.cluster.services() as services:
        for worker in scene.cluster.workers:
            await freeze(scene.cluster, worker)
        made = await asyncio.gather(*(scene.clients.upload(seconds=0.5) for _ in range(SESSIONS)))
        ids = [each[0]["session_id"] for each in made if each is not None]
        for each in made:
            assert each is not None
            scene.clients.follow(*each)

        async def deliver(n: int) -> None:
            for session_id in ids:
                await services.queue.enqueue(session_id, 0, n, score_ms=int(time.time() * 1000))

        for n in range(2, 6):
            await deliver(n)
        for worker in scene.cluster.workers:
            worker.thaw()
        await scene.until(lambda: all(each.outcome for each in scene.screens))
        await deliver(6)
        async with asyncio.timeout(20):
            while await services.queue.depth():
                await asyncio.sleep(0.01)
        await scene.finish()
        trails = await scene.trails()
        for session_id, trail in trails.items():
            story = [event.event.value for event in trail]
            scene.expect(story == ["created", "processing", "completed"], f"{session_id}: {story}")
        scene.promises.still_running(*scene.cluster.workers)
        scene.note(f"{6 * len(ids)} jobs for {len(ids)} sessions, each ran and ended once")
        _good_ending(scene)
    return scene.outcome


async def jobs_forgotten(pace: Pace) -> Outcome:
    """Empty the queue while sessions wait in it."""
    async with running_scene(pace, workers=1) as scene:
        worker = await _frozen_before(scene, count=4)
        await scene.cluster.valkey.command("DEL", "tryon:queue")
        worker.thaw()
        scene.repaired()
        await scene.finish()
        await _claimed_soon(scene)
    return scene.outcome


HARMS: Final = {
    "segfault": "processor_crashed",
    "eat": "processor_crashed",
    "spin": "timeout",
    "hang": "timeout",
}
"""Actions of :class:`testkit.paced.Paced`, and the error code that each leads to."""


async def processor_harms(pace: Pace) -> Outcome:
    """Crash, eat memory, spin and hang in processors, beside others that behave."""
    deadline = 20 if pace.slack > 1 else 30
    async with running_scene(
        pace,
        workers=1,
        worker_jobs=SESSIONS + len(HARMS),
        processor_cpu_seconds=3,
        processor_memory_bytes=2**30,
        deadline_seconds=deadline,
    ) as scene:
        good = await _running(scene, seconds=deadline / 2)
        made = dict(zip(HARMS, await asyncio.gather(*(scene.clients.upload(does=does) for does in HARMS)), strict=True))
        for each in made.values():
            assert each is not None
            scene.clients.follow(*each)
        await scene.until(lambda: all(each.outcome for each in scene.screens))
        good += await _running(scene, seconds=0.2, count=4)
        await scene.finish()
        trails = await scene.trails()
        for does, each in made.items():
            assert each is not None
            trail = trails[each[0]["session_id"]]
            scene.expect(_end(trail) == ("failed", HARMS[does]), f"{does} ended as {_end(trail)}")
            scene.expect(len(_starts(trail)) == 1, f"{does} ran {len(_starts(trail))} times")
        _ended_as(scene, {session_id: trails[session_id] for session_id in good}, Status.COMPLETED)
        for session_id in good:
            scene.expect(len(_starts(trails[session_id])) == 1, f"{session_id} did not run once")
        scene.promises.still_running(scene.cluster.worker)
        scene.note(f"{', '.join(f'{does}: {code}' for does, code in HARMS.items())}; the other {len(good)} completed")
        _good_ending(scene)
    return scene.outcome


ROWS: Final[dict[str, Row]] = {
    "worker-killed": Row("A worker is killed in the middle of its jobs", killed, sample=True),
    "workers-all-killed": Row("All workers are killed, none comes back", all_killed),
    "worker-killed-again": Row("Every worker that takes a session is killed", killed_again),
    "worker-zombie": Row("A worker freezes until its leases have lapsed, and wakes up", zombie),
    "worker-terminated": Row("A worker is stopped (SIGTERM) with short and long jobs", terminated),
    "worker-killed-unclaimed": Row(
        "A worker is killed between taking a job and claiming its session", killed_before_its_claim
    ),
    "processor-harms": Row(
        "Processors crash, eat memory, spin or never return, beside others that behave", processor_harms
    ),
    "jobs-five-times": Row("The same jobs are delivered five times", delivered_five_times),
    "jobs-forgotten": Row("The queue is deleted while sessions wait in it", jobs_forgotten),
}
