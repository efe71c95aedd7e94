"""A processor that runs a test's script, and a runner for it in the test's process."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import BinaryIO

from server.domain.outputs import VerifiedOutput
from server.domain.session import Session
from tests.worker.conftest import Feed
from tryon.processor import Checkpoint, Info, Job, Output, ProcessorError, Reference, Report, Result
from worker.chain import Chain, Starting
from worker.tasks import SessionRunner

Play = Callable[[Job, Report], Awaitable[Result]]


INFO = Info(name="mock", generated=True)


class Scripted:
    """A processor that runs the test's script, and keeps what happened to it."""

    def __init__(self, play: Play, name: str = "mock", info: Info = INFO) -> None:
        self.name = name
        self.info = info
        self._play = play
        self.began = asyncio.Event()
        self.cancelled = False
        self.jobs: list[Job] = []
        self.resumes = True
        self.forgets = True
        self.resumed: list[Checkpoint] = []
        self.cleaned: list[tuple[str, str, Checkpoint]] = []
        self.stays_upstream = False
        """Whether the upstream does not answer a clean-up."""
        self.contents: list[bytes] = []
        """Of the inputs of the last job."""

    async def run(self, job: Job, report: Report, starting: Starting) -> Result:
        self.jobs.append(job)
        self.contents = [each.read() for each in job.inputs]
        self.began.set()
        try:
            return await self._play(job, report)
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def described(self) -> Info:
        return self.info

    async def resume(self, job: Job, checkpoint: Checkpoint, report: Report, starting: Starting) -> Result:
        self.resumed.append(checkpoint)
        return await self.run(job, report, starting)

    async def cancel(self, job: Reference, checkpoint: Checkpoint) -> None:
        self.cleaned.append(("cancel", job.key, checkpoint))
        if self.stays_upstream:
            raise ProcessorError("backend_unreachable")

    async def forget(self, job: Reference, checkpoint: Checkpoint) -> None:
        self.cleaned.append(("forget", job.key, checkpoint))
        if self.stays_upstream:
            raise ProcessorError("backend_unreachable")


class Trusting:
    """Image processes that pass every output on as it is."""

    def warm(self) -> None:
        pass

    async def verify(self, source: BinaryIO, type: str, *, generated: bool, address: str = "") -> VerifiedOutput:
        assert generated, "as its info says"
        data = source.read()
        return VerifiedOutput(data=data, type=type, width=3, height=4, sha256=hashlib.sha256(data).hexdigest())


async def forever(job: Job, report: Report) -> Result:
    await asyncio.Event().wait()
    raise AssertionError


async def done(job: Job, report: Report) -> Result:
    return Output(b"a picture", "image/png")


def raising(error: BaseException) -> Play:
    async def play(job: Job, report: Report) -> Result:
        raise error

    return play


async def play(
    feed: Feed, script: Play, session: Session | None = None, processor: Scripted | None = None
) -> tuple[Session, Scripted]:
    """Run one session to the end of its run."""
    processor = processor or Scripted(script)
    session = session or await feed.submit()
    async with asyncio.timeout(20):
        await SessionRunner(feed.services, Chain([processor]), "w1", Trusting()).run(session.id)
    return (await feed.story(session.id)).session, processor
