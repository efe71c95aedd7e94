"""Sessions on a process pool, for the tests of its parts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

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

    def __init__(self, pool: ProcessPool) -> None:
        self._pid = asyncio.get_running_loop().create_future()
        self.outcome = asyncio.create_task(pool.run(job("wait"), self._report))

    async def _report(self, progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
        if stage is not None and stage.startswith("waiting "):
            self._pid.set_result(int(stage.split()[1]))

    async def reached(self) -> None:
        await asyncio.wait_for(asyncio.shield(self._pid), 60)

    async def end(self) -> str:
        os.kill(self._pid.result(), signal.SIGUSR1)
        return (await asyncio.wait_for(self.outcome, 60)).data.decode()
