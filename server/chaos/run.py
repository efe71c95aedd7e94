"""A run: people come at a steady rate, and something breaks every few seconds.

Every person stays until their session ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from server.chaos.checker import check
from server.chaos.http import Network
from server.chaos.people import Person, World
from server.chaos.plans import Plan, photos, plans
from server.chaos.records import AnyRecord, Fault, Quiet, Recorder, Refused, read
from server.chaos.report import json_lines, report
from server.chaos.verdict import Verdict
from server.system.clock import Clock

FAULT_SECONDS: Final = 120.0
"""Longest time for a fault's command."""

END_SECONDS: Final = 5.0
"""Longest time for such a command to end after SIGTERM."""

FaultFunction = Callable[[], Awaitable[str]]
"""Breaks something and repairs it; returns a detail for the records.

Raises :class:`FaultFailed`.
"""


class FaultFailed(Exception):
    """A fault that could not be brought about."""


async def come(world: World, who: Iterator[Plan], *, sessions: int, rate: float, seconds: float | None = None) -> None:
    """Let ``sessions`` people come, ``rate`` a second, none after ``seconds``.

    Returns when the last of them has seen the end.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as people:
        for number in range(sessions):
            await asyncio.sleep(began + number / rate - loop.time())
            if seconds is not None and loop.time() - began >= seconds:
                break
            people.create_task(Person(world, next(who)).live())


async def while_things_break(
    people: Coroutine[Any, Any, None],
    faults: Mapping[str, FaultFunction],
    *,
    every: float,
    choice: random.Random,
    record: Recorder,
    clock: Clock,
    say: Callable[[str], None] = print,
) -> None:
    """Break one thing after the other until the people are done.

    A fault that has begun is awaited, also after a cancellation: it has to repair what
    it broke. Raises FaultFailed as soon as one could not happen: a run in which nothing
    broke would prove nothing.
    """
    over = asyncio.Event()
    coming = asyncio.create_task(people, name="people")
    breaking = asyncio.create_task(_break(faults, over, every, choice, record, clock, say), name="faults")
    try:
        await asyncio.wait([coming, breaking], return_when=asyncio.FIRST_COMPLETED)
    finally:
        over.set()
        coming.cancel()
        await asyncio.wait([coming, breaking])
    await breaking
    await coming


async def _break(
    faults: Mapping[str, FaultFunction],
    over: asyncio.Event,
    every: float,
    choice: random.Random,
    record: Recorder,
    clock: Clock,
    say: Callable[[str], None],
) -> None:
    """Bring about one fault every ``every`` seconds until ``over`` is set.

    Their order is drawn round by round; a fault that takes longer delays the next.
    """
    loop = asyncio.get_running_loop()
    due = loop.time()
    if not faults:
        await over.wait()
    while not over.is_set():
        for name in choice.sample(sorted(faults), len(faults)):
            due = max(due + every, loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await over.wait()
            if over.is_set():
                return
            began = clock.wall()
            record(Fault(t=began, name=name))
            detail = await faults[name]()
            say(f"{time.strftime('%H:%M:%S', time.gmtime(began))} {name} {detail}".rstrip())


def shell(command: str) -> FaultFunction:
    """Return a fault that is a shell command of the user.

    It runs in a session of its own: the Ctrl-C that ends a run must not end a command
    that repairs the system.
    """

    async def run() -> str:
        process = await asyncio.create_subprocess_shell(
            command, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
        )
        try:
            async with asyncio.timeout(FAULT_SECONDS):
                status = await process.wait()
        except TimeoutError:
            await _end(process)
            raise FaultFailed(f"{command!r} did not end within {FAULT_SECONDS:g} s") from None
        if status:
            raise FaultFailed(f"{command!r} ended with status {status}")
        return ""

    return run


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a shell and its children: SIGTERM, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chaos:
    """The options of ``tryon chaos``.

    Times in seconds, ``rate`` in people a second.
    """

    url: str
    sessions: int = 100
    rate: float = 2.0
    seconds: float | None = None
    seed: int = 1
    faults: Sequence[tuple[str, str]] = ()
    every: float = 15.0
    patience: float = 120.0
    stale_seconds: float = 5.0
    stuck_seconds: float = 60.0
    image: Path | None = None
    record: Path | None = None
    as_json: bool = False


def chaos(options: Chaos, clock: Clock) -> Verdict:
    """Run, print while it runs, and return the verdict.

    Raises FaultFailed, and ValueError for a URL that is none.
    """
    if options.record is None:
        record = Recorder()
        uvloop.run(_chaos(options, record, clock))
    else:
        with options.record.open("wb") as file:
            record = Recorder(file)
            uvloop.run(_chaos(options, record, clock))
    limited = sum(isinstance(each, Refused) and each.status == 429 for each in record.records)
    if limited:
        print(f"rate limited {limited} times: the run waited, as its clients must", file=sys.stderr)
    verdict = judge(
        record.records,
        stale_seconds=options.stale_seconds,
        stuck_seconds=options.stuck_seconds,
        as_json=options.as_json,
    )
    if options.faults and not verdict.faults:
        raise FaultFailed(
            f"nothing broke: every person was done within {options.every:g} s, before the first fault was due"
        )
    return verdict


async def _chaos(options: Chaos, record: Recorder, clock: Clock) -> None:
    pictures = [options.image.read_bytes()] if options.image else photos(options.seed)
    world = World(Network(options.url), record, pictures, options.patience, clock)
    people = plans(options.seed, everybody_looks_back=True)
    faults = {name: shell(command) for name, command in options.faults}
    choice = random.Random(options.seed)
    await while_things_break(
        come(world, people, sessions=options.sessions, rate=options.rate, seconds=options.seconds),
        faults,
        every=options.every,
        choice=choice,
        record=record,
        clock=clock,
        say=functools.partial(print, file=sys.stderr) if options.as_json else print,
    )
    record(Quiet(t=clock.wall()))


def judge(
    records: Iterable[AnyRecord], *, stale_seconds: float, stuck_seconds: float, as_json: bool = False
) -> Verdict:
    """Check the records, and print the verdict."""
    verdict = check(records, stale_seconds=stale_seconds, stuck_seconds=stuck_seconds)
    print(json_lines(verdict) if as_json else report(verdict), flush=True)
    return verdict


def judge_file(path: Path, *, stale_seconds: float, stuck_seconds: float, as_json: bool = False) -> Verdict:
    """Check the records of a file, and print the verdict.

    Raises ValueError where it holds anything else than records.
    """
    with path.open("rb") as lines:
        return judge(read(lines), stale_seconds=stale_seconds, stuck_seconds=stuck_seconds, as_json=as_json)
