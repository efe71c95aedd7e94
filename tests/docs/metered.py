"""A processor that says what it used, and ends as its session asks for."""

from __future__ import annotations

from tryon.processor import Info, Job, Output, ProcessorError, Report


class Metered:
    info = Info(name="metered")

    async def run(self, job: Job, report: Report) -> Output:
        """Return the photo itself, or fail with the code in ``params``."""
        await report(0.5, "working")
        await report.usage(gpu_seconds=2.0)
        if code := job.params.get("fail"):
            raise ProcessorError(code)
        photo = job.inputs[0]
        return Output(photo.read(), photo.type)
