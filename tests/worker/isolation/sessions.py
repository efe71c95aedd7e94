"""Sessions on a process pool, for the tests of its parts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testkit.pipes import readable
from tryon.processor import Job, ProcessorError
from worker.isolation.errors import RaisedInChild
from worker.isolation.pool import ProcessPool

LINUX = pytest.mark.skipif("sys.platform != 'linux'", reason="needs /proc")
MEGABYTE = 2**20
Start = Callable[..., Any]
Reported = list[tuple[float | None, str | None, float | None]]


def job(do: str = "pid", **params: Any) -> Job:
    return Job("s1", 1, b"a photo", "image/jpeg", params={"do": do} | params)


async def quiet(progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
    pass


async def run(pool: ProcessPool, do: str = "pid", **params: Any) -> str:
    """Return what the processor returned, or the code that the session failed with."""
    try:
        return (await asyncio.wait_for(pool.run(job(do, **params), quiet), 60)).data.decode()
    except ProcessorError as error:
        return error.code
    except RaisedInChild:
        return "processor_error"


class Waiting:
    """A session that runs for as long as the test wants."""

    def __init__(self, pool: ProcessPool, folder: Path, name: str) -> None:
        self._pipes = (folder / f"{name}.reached", folder / f"{name}.release")
        for path in self._pipes:
            os.mkfifo(path)
        self._reached, self._release = (os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in self._pipes)
        params = {"reached": str(self._pipes[0]), "release": str(self._pipes[1])}
        self.outcome = asyncio.create_task(run(pool, "wait", **params))

    async def reached(self) -> None:
        await readable(self._reached)

    async def end(self) -> str:
        os.write(self._release, b"!")
        try:
            return await self.outcome
        finally:
            os.close(self._reached)
            os.close(self._release)
