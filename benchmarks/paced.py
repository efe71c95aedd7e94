"""A processor that takes as long as its session asks for, ``params={"seconds": 2.5}``, and next to no CPU."""

from __future__ import annotations

import asyncio

from server.config import Config
from worker.processors import Job, Output, Report

REPORT_SECONDS = 0.2


class Paced:
    name = "paced"

    def __init__(self, config: Config) -> None:
        pass

    async def run(self, job: Job, report: Report) -> Output:
        """The result is the photo itself."""
        loop = asyncio.get_running_loop()
        seconds = float(job.params.get("seconds", 0.2))
        ends = loop.time() + seconds
        while (left := ends - loop.time()) > 0:
            await report(1 - left / seconds, "waiting", left)
            await asyncio.sleep(min(left, REPORT_SECONDS))
        return Output(job.image, job.image_type.partition("/")[2])
