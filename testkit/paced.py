"""A processor that takes as long as its session asks for, and next to no CPU.

``params={"seconds": 2.5}`` sets the time. ``params={"does": "segfault"}``, ``eat``
(memory), ``spin`` or ``hang`` make it do what no processor should.
"""

from __future__ import annotations

import asyncio
import ctypes

from tryon.processor import Info, Job, Output, Report

REPORT_SECONDS = 0.2
EATEN_BYTES = 5 * 2**30
"""Most memory that it takes, unless it is stopped before."""


class Paced:
    info = Info(name="paced")

    async def run(self, job: Job, report: Report) -> Output:
        """Return the photo itself as the result."""
        match job.params.get("does"):
            case "segfault":
                ctypes.string_at(0)
            case "eat":
                await self._eat()
            case "spin":
                while True:
                    pass
            case "hang":
                await asyncio.Event().wait()
        loop = asyncio.get_running_loop()
        seconds = float(job.params.get("seconds", 0.2))
        ends = loop.time() + seconds
        while (left := ends - loop.time()) > 0:
            await report(1 - left / seconds, "waiting", left)
            await asyncio.sleep(min(left, REPORT_SECONDS))
        photo = job.inputs[0]
        return Output(photo.read(), photo.type)

    async def _eat(self) -> None:
        eaten = []
        for _ in range(EATEN_BYTES // 2**26):
            eaten.append(b"x" * 2**26)
            await asyncio.sleep(0.01)
