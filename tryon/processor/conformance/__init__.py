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
import hashlib
import math
import struct
import tempfile
import zlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from tryon.processor.interface import (
    AttemptLost,
    Checkpoint,
    Info,
    Input,
    Job,
    Output,
    Processor,
    ProcessorError,
    Reference,
    needs_of,
)
from tryon.processor.validation import check_info, checkpoint_text, is_preview, outputs_of

T = TypeVar("T")

SIGNATURES: Final = {
    "image/jpeg": (0, b"\xff\xd8\xff"),
    "image/png": (0, b"\x89PNG\r\n\x1a\n"),
    "image/webp": (0, b"RIFF"),
    "video/mp4": (4, b"ftyp"),
    "video/webm": (0, b"\x1a\x45\xdf\xa3"),
}
"""Place and value of the first bytes that tell a file's type."""


class Progress(NamedTuple):
    """A report of progress."""

    progress: float | None
    stage: str | None
    eta_seconds: float | None
    step: int | None
    steps: int | None
    upstream_position: int | None


def sample_photo(width: int = 96, height: int = 128) -> bytes:
    """Return a PNG with a gradient: the smallest photo that has something to see."""
    rows = b"".join(
        b"\0" + bytes(value for x in range(width) for value in (255 * x // width, 255 * y // height, 128))
        for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return SIGNATURES["image/png"][1] + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


class Reports:
    """A ``Report`` that keeps all it is given; ``reported`` is set by the first.

    ``on_progress`` is called with the progress, the stage and the ETA of each report.
    """

    def __init__(self, on_progress: Callable[[float | None, str | None, float | None], object] | None = None) -> None:
        self.all: list[Progress] = []
        self.previews: list[tuple[bytes, str]] = []
        self.lines: list[str] = []
        self.usages: list[dict[str, float | None]] = []
        self.checkpoints: list[Checkpoint] = []
        self.lost = False
        """Whether a checkpoint is refused, as that of a lost attempt."""
        self.reported = asyncio.Event()
        self.checkpointed = asyncio.Event()
        self._on_progress = on_progress

    def __repr__(self) -> str:
        return f"<Reports {len(self.all)}>"

    async def __call__(
        self,
        progress: float | None = None,
        stage: str | None = None,
        eta_seconds: float | None = None,
        *,
        step: int | None = None,
        steps: int | None = None,
        upstream_position: int | None = None,
    ) -> None:
        self.all.append(Progress(progress, stage, eta_seconds, step, steps, upstream_position))
        self.reported.set()
        if self._on_progress is not None:
            self._on_progress(progress, stage, eta_seconds)
        await asyncio.sleep(0)

    async def preview(self, data: bytes, type: str = "image/jpeg") -> None:
        self.previews.append((data, type))
        self.reported.set()
        await asyncio.sleep(0)

    async def log(self, text: str) -> None:
        self.lines.append(text)
        await asyncio.sleep(0)

    async def usage(
        self, *, credits: float | None = None, cost_usd: float | None = None, gpu_seconds: float | None = None
    ) -> None:
        self.usages.append({"credits": credits, "cost_usd": cost_usd, "gpu_seconds": gpu_seconds})
        await asyncio.sleep(0)

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        if self.lost:
            raise AttemptLost
        checkpoint_text(checkpoint)
        self.checkpoints.append(checkpoint)
        self.checkpointed.set()
        await asyncio.sleep(0)


class ProcessorConformance:
    """What a worker relies on. Subclasses say how to make the processor."""

    stop_seconds: ClassVar[float] = 0.3
    """How long a cancelled run may take; a worker kills the process after 0.3 s."""
    run_seconds: ClassVar[float] = 60.0
    """How long one run may take in these tests."""
    params: ClassVar[Mapping[str, Any]] = {}
    """The parameters of the jobs."""

    _folder: str

    def make(self) -> Processor:
        """Return a new processor that does not fail on purpose."""
        raise NotImplementedError

    def make_slow(self) -> Processor:
        """Return one that is still at work when it is cancelled after its first report.

        The same one, unless a subclass knows how to make it slower.
        """
        return self.make()

    def photo(self, role: str, index: int) -> tuple[bytes, str]:
        """Return content and type of an input that the processor can use."""
        return (sample_photo() if index == 0 and role != "garment" else sample_photo(80, 64)), "image/png"

    def make_job(self, info: Info, *, every_input: bool = False, number: int = 1) -> Job:
        """Return a job with the required inputs, or with as many as there may be."""
        inputs = [
            self._file(role.name, index, *self.photo(role.name, index))
            for role in info.roles
            for index in range(role.count if every_input else int(role.required))
        ]
        return Job(
            session_id=f"conformance-{number}", inputs=tuple(inputs), params=self.params, seed=number, number=number
        )

    def _file(self, role: str, index: int, content: bytes, type: str) -> Input:
        digest = hashlib.sha256(content).hexdigest()
        path = Path(self._folder) / f"{role}-{index}-{digest[:16]}"
        path.write_bytes(content)
        return Input(role=role, index=index, type=type, path=str(path), bytes=len(content), sha256=digest)

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

        with tempfile.TemporaryDirectory(prefix="tryon-conformance-") as self._folder:
            return asyncio.run(live())

    async def _run(
        self, processor: Processor, report: Reports | None = None, *, every_input: bool = False, number: int = 1
    ) -> tuple[Output, ...]:
        job = self.make_job(processor.info, every_input=every_input, number=number)
        while True:
            try:
                return outputs_of(await processor.run(job, report or Reports()), processor.info)
            except ProcessorError as error:
                if error.retry_after is None:
                    raise
                await asyncio.sleep(error.retry_after)  # the upstream is busy: a worker waits, too

    def test_info_is_well_formed(self) -> None:
        """A processor says what it is, and the interface version it was made for."""

        async def look(processor: Processor) -> object:
            return processor.info

        from tryon.processor.description import describe  # loads msgspec

        describe(check_info(self.use(look)))  # and uploads can be judged by it

    def test_needs_are_well_formed(self) -> None:
        """What the processor needs is said in attributes of the right types."""
        needs_of(self.make())

    def test_run_returns_outputs(self) -> None:
        """A run returns files that are what their types and roles say."""
        for output in self.use(self._run):
            at, signature = SIGNATURES[output.type]
            assert bytes(output.data[at : at + len(signature)]) == signature, f"{output!r} is of another type"

    def test_run_accepts_every_input(self) -> None:
        """A job may have as many inputs as the roles allow."""
        assert self.use(lambda processor: self._run(processor, every_input=True))

    def test_reports_are_in_range(self) -> None:
        """Progress is 0 to 1 or unknown, a stage is a text, an ETA is not negative."""
        report = self.use(self._reports)
        for progress, stage, eta_seconds, step, steps, position in report.all:
            assert progress is None or 0 <= progress <= 1
            assert stage is None or isinstance(stage, str)
            assert eta_seconds is None or (math.isfinite(eta_seconds) and eta_seconds >= 0)
            assert all(count is None or (isinstance(count, int) and count >= 0) for count in (step, steps, position))
            assert step is None or steps is None or step <= steps
        for usage in report.usages:
            assert all(each is None or (math.isfinite(each) and each >= 0) for each in usage.values())

    def test_previews_are_pictures(self) -> None:
        """A preview is an image of its type, and info says that there are any."""

        async def run(processor: Processor) -> tuple[Reports, bool]:
            return await self._reports(processor), processor.info.preview

        report, expected = self.use(run)
        for data, type in report.previews:
            assert is_preview(data, type)
            assert bytes(data).startswith(SIGNATURES[type][1])
        assert expected or not report.previews, "info.preview is False"

    async def _reports(self, processor: Processor) -> Reports:
        report = Reports()
        await self._run(processor, report)
        return report

    def test_processor_runs_again(self) -> None:
        """One processor runs job after job: nothing of a job is left to the next."""

        async def run(processor: Processor) -> None:
            for number in (1, 2):
                await self._run(processor, number=number)

        self.use(run)

    def test_concurrent_runs_end_well(self) -> None:
        """As many runs at once as info says end with outputs of their own."""

        async def run(processor: Processor) -> None:
            runs = min(processor.info.concurrency, 3)
            await asyncio.gather(*(self._run(processor, number=number) for number in range(1, runs + 1)))

        self.use(run)

    def test_cancel_ends_run(self) -> None:
        """A cancelled run ends in time and lets the cancellation through."""

        async def cancel(processor: Processor) -> None:
            report = Reports()
            running = asyncio.ensure_future(self._run(processor, report))
            reported = asyncio.ensure_future(report.reported.wait())
            await asyncio.wait({running, reported}, return_when=asyncio.FIRST_COMPLETED)
            reported.cancel()
            if running.done():  # too fast to be cancelled
                assert running.result()
                return
            running.cancel()
            done, _ = await asyncio.wait({running}, timeout=self.stop_seconds)
            assert done, f"the run did not end within {self.stop_seconds} s of its cancellation"
            assert running.cancelled() or running.exception() is None

        self.use(cancel, self.make_slow)

    def test_broken_image_fails_with_exception(self) -> None:
        """An image that cannot be read fails its own job, and the next one works."""

        async def run(processor: Processor) -> tuple[Output, ...]:
            job = self.make_job(processor.info)
            inputs = tuple(self._file(each.role, each.index, b"not an image", each.type) for each in job.inputs)
            broken = replace(job, session_id="broken", inputs=inputs)
            [outcome] = await asyncio.gather(processor.run(broken, Reports()), return_exceptions=True)
            assert not isinstance(outcome, BaseException) or isinstance(outcome, Exception)
            assert not isinstance(outcome, ProcessorError) or outcome.code
            return await self._run(processor, number=2)

        assert self.use(run)

    # -- work upstream -----------------------------------------------------------------

    def test_resume_goes_on_from_checkpoint(self) -> None:
        """Another attempt resumes where the first one was stopped."""

        async def resume(processor: Processor) -> None:
            report = Reports()
            running = asyncio.ensure_future(self._run(processor, report))
            saved = asyncio.ensure_future(report.checkpointed.wait())
            await asyncio.wait({running, saved}, return_when=asyncio.FIRST_COMPLETED)
            saved.cancel()
            running.cancel()
            await asyncio.wait({running})
            going_on = getattr(processor, "resume", None)
            if going_on is None or not report.checkpoints:
                return
            job = replace(self.make_job(processor.info), attempt=2)
            assert outputs_of(await going_on(job, report.checkpoints[-1], Reports()), processor.info)

        self.use(resume)

    def test_clean_up_may_be_repeated(self) -> None:
        """Work that has ended can be cancelled and forgotten, and once more."""

        async def clean_up(processor: Processor) -> None:
            report = await self._reports(processor)
            reference = Reference(key=self.make_job(processor.info).key)
            for method in ("cancel", "forget") * 2:
                if (call := getattr(processor, method, None)) is not None and report.checkpoints:
                    await call(reference, report.checkpoints[-1])

        self.use(clean_up)
