"""A processor whose work goes on elsewhere; it does what a job's params ask for."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from pathlib import Path

from tryon.processor import (
    AttemptLost,
    Checkpoint,
    Info,
    Job,
    Output,
    OutputRole,
    ProcessorError,
    Reference,
    Report,
    Result,
)

RUNS = 3


class Elsewhere:
    info = Info(
        name="elsewhere",
        outputs=(OutputRole(types=("image/png",)), OutputRole(name="side", types=("image/jpeg", "video/mp4"), count=2)),
        concurrency=RUNS,
        preview=True,
    )

    def __init__(self) -> None:
        self._running = 0

    async def run(self, job: Job, report: Report) -> Result:
        said: Result | str = await getattr(self, job.params["do"])(job, report)
        return Output(said.encode(), "image/png") if isinstance(said, str) else said

    async def resume(self, job: Job, checkpoint: Checkpoint, report: Report) -> Result:
        return Output(json.dumps([job.attempt, checkpoint]).encode(), "image/png")

    async def cancel(self, job: Reference, checkpoint: Checkpoint) -> None:
        raise ProcessorError("backend_busy", f"{job.key} {checkpoint['id']}", retry_after=2.5)

    async def forget(self, job: Reference, checkpoint: Checkpoint) -> None:
        if checkpoint["id"] == "slow":
            await asyncio.Event().wait()

    # -- what a run does ---------------------------------------------------------------

    async def several(self, job: Job, report: Report) -> Result:
        """Return outputs of both roles."""
        film = Output(b"x" * job.params.get("bytes", 1), "video/mp4", "side")
        return [Output(b"front", "image/png"), film, Output(b"yy", "image/jpeg", "side")]

    async def too_many(self, job: Job, report: Report) -> Result:
        return [Output(b"x", "image/jpeg", "side")] * 3

    async def say(self, job: Job, report: Report) -> str:
        """Report everything there is to report, good and bad."""
        await report(step=3, steps=30, upstream_position=2)
        await report.preview(b"first", "image/png")
        await report.preview(b"no picture", "text/html")
        await report.preview(b"x" * (5 * 2**20), "image/png")
        await report.usage(credits=1, gpu_seconds=float("nan"))
        await report.log("it goes on elsewhere")
        await report.checkpoint({"id": "words"})  # answered when the words have been passed on
        await asyncio.sleep(0.5)
        await report.preview(b"last", "image/webp")
        await report.usage(credits=2.5, cost_usd=0.01, gpu_seconds=-1)
        return "said"

    async def save(self, job: Job, report: Report) -> str:
        """Return what became of each checkpoint."""
        outcomes = []
        for checkpoint in job.params["checkpoints"]:
            try:
                await report.checkpoint(checkpoint)
            except (AttemptLost, TypeError, ValueError) as error:
                outcomes.append(type(error).__name__)
            else:
                outcomes.append("stored")
        return " ".join(outcomes)

    async def together(self, job: Job, report: Report) -> str:
        """Return the process id once as many runs are here as there may be."""
        self._running += 1
        while self._running < RUNS:
            await asyncio.sleep(0.01)
        return str(os.getpid())

    async def never(self, job: Job, report: Report) -> str:
        await report(0.5, f"waiting {os.getpid()}")
        await asyncio.Event().wait()
        raise AssertionError

    async def costly(self, job: Job, report: Report) -> str:
        """Say at its cancellation what it has used."""
        await report(0.5, "costly")
        try:
            await asyncio.Event().wait()
        finally:
            await report.usage(gpu_seconds=7)
        raise AssertionError

    async def stubborn(self, job: Job, report: Report) -> str:
        await report(0.5, "stubborn")
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    async def busy(self, job: Job, report: Report) -> str:
        raise ProcessorError("backend_busy", retry_after=job.params["seconds"])


class Heavy(Elsewhere):
    """A processor whose model fits once into the machine's GPU."""

    info = Info(name="heavy", outputs=Elsewhere.info.outputs)

    def __init__(self, *, folder: str) -> None:
        super().__init__()
        self._gpu = Path(folder) / "gpu"

    async def start(self) -> None:
        self._weights = self._gpu.open("w")
        fcntl.flock(self._weights, fcntl.LOCK_EX | fcntl.LOCK_NB)
