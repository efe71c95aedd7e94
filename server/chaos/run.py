"""A run: people come at a steady rate, something breaks every few seconds, and everybody stays until their session ends."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from .checker import Verdict, check
from .http import Network
from .people import Person, World
from .plans import Plan, photos, plans
from .records import AnyRecord, Fault, Quiet, Recorder, Refused, read
from .report import report

FAULT_SECONDS: Final = 120.0
"""A fault's command may take so long."""

FaultFunction = Callable[[], Awaitable[str]]
"""Breaks something and mends it again; what it returns goes into the records. Raises :class:`FaultFailed`."""


class FaultFailed(Exception):
    """What was to be broken could not be."""


async def come(world: World, who: Iterator[Plan], *, sessions: int, rate: float, seconds: float | None = None) -> None:
    """``sessions`` people, ``rate`` a second, none after ``seconds``; ends when the last of them has seen the end."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as people:
        for number in range(sessions):
            await asyncio.sleep(began + number / rate - loop.time())
            if seconds is not None and loop.time() - began >= seconds:
                break
            people.create_task(Person(world, next(who)).live())


async def break_things(
    faults: Mapping[str, FaultFunction],
    *,
    every: float,
    choice: random.Random,
    record: Recorder,
    say: Callable[[str], None] = print,
) -> None:
    """One fault every ``every`` seconds, in an order drawn round by round, for ever; a fault that takes longer delays
    the next. Raises FaultFailed: a run in which nothing broke would prove nothing."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    if not faults:
        await loop.create_future()
    while True:
        for name in choice.sample(sorted(faults), len(faults)):
            due = max(due + every, loop.time())
            await asyncio.sleep(due - loop.time())
            began = time.time()
            record(Fault(t=began, name=name))
            detail = await faults[name]()
            say(f"{time.strftime('%H:%M:%S', time.gmtime(began))} {name} {detail}".rstrip())


def shell(command: str) -> FaultFunction:
    """A fault that is a shell command of the user."""

    async def run() -> str:
        process = await asyncio.create_subprocess_shell(command, stdin=asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(FAULT_SECONDS):
                status = await process.wait()
        except TimeoutError:
            raise FaultFailed(f"{command!r} did not end within {FAULT_SECONDS:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
        if status:
            raise FaultFailed(f"{command!r} ended with status {status}")
        return ""

    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class Chaos:
    """What ``tryon chaos`` was asked to do. Times in seconds, ``rate`` in people a second."""

    url: str
    sessions: int = 100
    rate: float = 2.0
    seconds: float | None = None
    seed: int = 1
    faults: Sequence[tuple[str, str]] = ()
    every: float = 15.0
    patience: float = 120.0
    stale_seconds: float = 10.0
    stuck_seconds: float = 60.0
    image: Path | None = None
    record: Path | None = None


def chaos(options: Chaos) -> Verdict:
    """Run it, print as it goes, and judge it. Raises FaultFailed, and ValueError for an address that is none."""
    if options.record is None:
        record = Recorder()
        uvloop.run(_chaos(options, record))
    else:
        with options.record.open("wb") as file:
            record = Recorder(file)
            uvloop.run(_chaos(options, record))
    limited = sum(isinstance(each, Refused) and each.status == 429 for each in record.records)
    if limited:
        print(f"rate limited {limited} times: the run waited, as its clients must", file=sys.stderr)
    return judge(record.records, stale_seconds=options.stale_seconds, stuck_seconds=options.stuck_seconds)


async def _chaos(options: Chaos, record: Recorder) -> None:
    pictures = [options.image.read_bytes()] if options.image else photos(options.seed)
    world = World(Network(options.url), record, pictures, options.patience)
    people = plans(options.seed, everybody_looks_back=True)
    faults = {name: shell(command) for name, command in options.faults}
    choice = random.Random(options.seed)
    await while_things_break(
        come(world, people, sessions=options.sessions, rate=options.rate, seconds=options.seconds),
        break_things(faults, every=options.every, choice=choice, record=record),
    )
    record(Quiet(t=time.time()))


async def while_things_break(people: Coroutine[Any, Any, None], breaking: Coroutine[Any, Any, None]) -> None:
    """Until the people are done; raises what stops the breaking earlier."""
    tasks = [asyncio.create_task(people), asyncio.create_task(breaking)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def judge(records: Iterable[AnyRecord], *, stale_seconds: float, stuck_seconds: float) -> Verdict:
    """Check the records and print what came of it."""
    verdict = check(records, stale_seconds=stale_seconds, stuck_seconds=stuck_seconds)
    print(report(verdict), flush=True)
    return verdict


def judge_file(path: Path, *, stale_seconds: float, stuck_seconds: float) -> Verdict:
    """The same from a file. Raises ValueError where it holds anything else than records."""
    with path.open("rb") as lines:
        return judge(read(lines), stale_seconds=stale_seconds, stuck_seconds=stuck_seconds)
