"""The checks that every processor must pass, as a class of pytest tests.

In a test module of the processor's own project::

    from tryon.processor.conformance import ProcessorConformance

    class TestMirror(ProcessorConformance):
        def make(self) -> Mirror:
            return Mirror()

The tests need pytest and no plugin: each runs the processor on an event loop of its
own, as a worker's child process does. To run it within the sandbox of its declared
:class:`~tryon.processor.Needs` as well, where the server is installed, ``make`` returns
``worker.isolation.confined.Confined("package.module:Mirror")``.
"""

from __future__ import annotations

import asyncio
import math
import struct
import zlib
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Final, TypeVar

from tryon.processor.interface import EXTENSION, VERSION, Job, Output, Processor, ProcessorError, needs_of

T = TypeVar("T")

SIGNATURES: Final = {"jpg": b"\xff\xd8\xff", "jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n", "webp": b"RIFF"}
"""The first bytes of a file, by its extension."""

Progress = tuple[float | None, str | None, float | None]


def sample_photo(width: int = 96, height: int = 128) -> bytes:
    """Return a PNG with a gradient: the smallest photo that has something to see."""
    rows = b"".join(
        b"\0" + bytes(value for x in range(width) for value in (255 * x // width, 255 * y // height, 128))
        for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return SIGNATURES["png"] + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


class Reports:
    """A ``Report`` that keeps all it is given; ``reported`` is set by the first."""

    def __init__(self) -> None:
        self.all: list[Progress] = []
        self.reported = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Reports {len(self.all)}>"

    async def __call__(self, progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
        self.all.append((progress, stage, eta_seconds))
        self.reported.set()
        await asyncio.sleep(0)


class ProcessorConformance:
    """What a worker relies on. Subclasses say how to make the processor."""

    stop_seconds: ClassVar[float] = 0.3
    """How long a cancelled run may take; a worker kills the process after 0.3 s."""
    run_seconds: ClassVar[float] = 60.0
    """How long one run may take in these tests."""

    def make(self) -> Processor:
        """Return a new processor that does not fail on purpose."""
        raise NotImplementedError

    def make_slow(self) -> Processor:
        """Return one that is still at work when it is cancelled after its first report.

        The same one, unless a subclass knows how to make it slower.
        """
        return self.make()

    def make_job(self, *, garment: bool = False, number: int = 1) -> Job:
        """Return a job that the processor must be able to do."""
        cloth = sample_photo(80, 64) if garment else None
        return Job(
            session_id=f"conformance-{number}",
            attempt=1,
            image=sample_photo(),
            image_type="image/png",
            garment=cloth,
            garment_type="image/png" if cloth else None,
            number=number,
        )

    def use(
        self, body: Callable[[Processor], Coroutine[Any, Any, T]], make: Callable[[], Processor] | None = None
    ) -> T:
        """Run ``body`` with a started processor, and close it afterwards."""

        async def live() -> T:
            processor = (make or self.make)()
            if (start := getattr(processor, "start", None)) is not None:  # as a child process looks for it
                await start()
            try:
                return await asyncio.wait_for(body(processor), self.run_seconds)
            finally:
                if (close := getattr(processor, "close", None)) is not None:
                    await asyncio.wait_for(close(), self.stop_seconds)

        return asyncio.run(live())

    def test_processor_has_name(self) -> None:
        """A processor names itself, and the interface version it was made for."""
        processor = self.make()
        assert isinstance(processor.name, str)
        assert processor.name.strip()
        assert getattr(processor, "interface", VERSION) == VERSION

    def test_needs_are_well_formed(self) -> None:
        """What the processor needs is said in attributes of the right types."""
        needs_of(self.make())

    def test_run_returns_image(self) -> None:
        """A run returns a file that is what its extension says."""
        output = self.use(lambda processor: processor.run(self.make_job(), Reports()))
        assert isinstance(output, Output)
        assert EXTENSION.fullmatch(output.extension)
        assert output.data.startswith(SIGNATURES.get(output.extension, b""))
        assert output.data

    def test_run_accepts_garment(self) -> None:
        """A job may have a garment, whether or not the processor uses it."""
        assert self.use(lambda processor: processor.run(self.make_job(garment=True), Reports())).data

    def test_reports_are_in_range(self) -> None:
        """Progress is 0 to 1 or unknown, a stage is a text, an ETA is not negative."""
        reports: list[Progress] = []

        async def run(processor: Processor) -> None:
            report = Reports()
            await processor.run(self.make_job(), report)
            reports.extend(report.all)

        self.use(run)
        for progress, stage, eta_seconds in reports:
            assert progress is None or 0 <= progress <= 1
            assert stage is None or isinstance(stage, str)
            assert eta_seconds is None or (math.isfinite(eta_seconds) and eta_seconds >= 0)

    def test_processor_runs_again(self) -> None:
        """One processor runs job after job: nothing of a job is left to the next."""

        async def run(processor: Processor) -> list[Output]:
            return [await processor.run(self.make_job(number=number), Reports()) for number in (1, 2)]

        assert all(output.data for output in self.use(run))

    def test_cancel_ends_run(self) -> None:
        """A cancelled run ends in time and lets the cancellation through."""

        async def cancel(processor: Processor) -> None:
            report = Reports()
            running = asyncio.ensure_future(processor.run(self.make_job(), report))
            reported = asyncio.ensure_future(report.reported.wait())
            await asyncio.wait({running, reported}, return_when=asyncio.FIRST_COMPLETED)
            reported.cancel()
            if running.done():  # too fast to be cancelled
                assert running.result().data
                return
            running.cancel()
            done, _ = await asyncio.wait({running}, timeout=self.stop_seconds)
            assert done, f"the run did not end within {self.stop_seconds} s of its cancellation"
            assert running.cancelled() or running.exception() is None

        self.use(cancel, self.make_slow)

    def test_broken_image_fails_with_exception(self) -> None:
        """An image that cannot be read fails its own job, and the next one works."""

        async def run(processor: Processor) -> Output:
            broken = Job(session_id="broken", attempt=1, image=b"not an image", image_type="image/png")
            [outcome] = await asyncio.gather(processor.run(broken, Reports()), return_exceptions=True)
            assert isinstance(outcome, Output | Exception)
            assert not isinstance(outcome, ProcessorError) or outcome.code
            return await processor.run(self.make_job(number=2), Reports())

        assert self.use(run).data
