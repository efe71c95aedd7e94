"""The processor ``overlay``: a garment laid over the photo, no generative AI."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tryon.processor import Info, Job, Output, OutputRole, ProcessorError, Report, Role
from worker.processors.overlay.weights import default_folder, missing

if TYPE_CHECKING:
    from worker.processors.overlay.fitting import Fitting

INFO: Final = Info(
    name="overlay",
    version="1",
    label="overlay, no generative AI",
    roles=(
        Role(name="person", required=True, hint="One person from the front, head to waist, arms beside the body"),
        Role(name="garment", required=True, hint="An upper garment on a plain ground, seen whole from the front"),
    ),
    outputs=(OutputRole(),),
    params_schema={"type": "object"},
    privacy="The photo stays on this server.",
    typical_seconds=1.0,
)


class OverlayProcessor:
    """A processor that bends a picture of a garment onto a person, on the CPU."""

    info = INFO
    options_schema: Final = {
        "type": "object",
        "properties": {"weights": {"type": "string", "description": "The folder that holds the weights"}},
        "additionalProperties": False,
    }

    def __init__(self, *, weights: str | None = None) -> None:
        self._weights = Path(weights) if weights else default_folder()
        self.reads = (str(self._weights),)
        self._fitting: Fitting | None = None

    def __repr__(self) -> str:
        return f"<OverlayProcessor weights={self._weights}>"

    async def start(self) -> None:
        """Load OpenCV and the networks, about 0.4 s.

        Raises RuntimeError, with what to install: the extra or the weights are missing.
        """
        self._fitting = await asyncio.to_thread(self._load)

    def _load(self) -> Fitting:
        absent = missing(self._weights)
        if absent:
            raise RuntimeError(f"{', '.join(absent)} missing in {self._weights}: run `tryon overlay install`")
        try:
            from worker.processors.overlay.fitting import Fitting
        except ImportError as error:
            raise RuntimeError(f"{error}: install the extra, pip install 'tryon-push[overlay]'") from error
        return Fitting(self._weights)

    async def run(self, job: Job, report: Report) -> Output:
        """Return the photo with the garment on."""
        from worker.processors.overlay.fitting import PHOTO_SIDE, read_picture

        person, garment = job.input("person"), job.input("garment")
        if person is None or garment is None:
            raise ProcessorError("garment_not_found" if person else "person_not_found")
        if self._fitting is None:
            await self.start()
        fitting = self._fitting
        assert fitting is not None
        started = time.monotonic()

        async def say(progress: float, stage: str) -> None:
            left = (time.monotonic() - started) * (1 - progress) / progress if progress else None
            await report(progress, stage, left)

        await say(0.0, "reading the pictures")
        photo, _ = await asyncio.to_thread(lambda: read_picture(person.read(), PHOTO_SIDE))
        await say(0.1, "finding the body")
        pose, body = await asyncio.to_thread(fitting.look, photo)
        await say(0.4, "cutting out the garment")
        cut = await asyncio.to_thread(lambda: fitting.cut(garment.read()))
        await say(0.5, "telling skin from clothes")
        parts = await asyncio.to_thread(fitting.separate, photo, pose, body)
        await say(0.6, "laying the garment over the photo")
        data = await asyncio.to_thread(fitting.dress, photo, cut, body, parts)
        await say(1.0, "finishing")
        return Output(data)
