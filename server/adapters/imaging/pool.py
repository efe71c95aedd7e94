"""A few limited child processes that clean uploaded photos, and verify results.

The event loop never decodes.

Between ``web.api.uploads``, which has the bytes, and ``sessions.submissions``, which
stores the clean photo; in a worker between the processor and ``sessions.claims``. What
"clean" means, and Pillow, stands in :mod:`~server.adapters.imaging.cleaner`, what
"verified" means in :mod:`~server.adapters.imaging.outputs.verifier`; the processes are
:mod:`~server.adapters.imaging.template`. A decoder that crashes, loops or eats memory
ends its own child process and its own upload.

A photo travels by file descriptor: a large one, which the upload spooled to a file, is
never read here; a small one is one write into an anonymous memory file; the result is
one read from another. A 196 kB JPEG takes 0.2 to 0.3 ms of this process's CPU (0.13 ms
of it for the files; pipes of 1 MiB would take 0.05 ms, but also copy the large photos,
and block or arrive in pieces). All together it takes 1.11 times what Pillow alone needs
for the same decode, turn and encode, for a 12 MP photo 0.91 times.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import logging
from collections.abc import Sequence
from typing import BinaryIO, Final

from server.adapters.imaging.image_process import ImageProcess, ImageProcesses
from server.adapters.imaging.photo_job import VERIFY, PhotoJob
from server.adapters.imaging.turns import Turns
from server.domain.images import CleanImage, ImageFormat, Limits
from server.domain.outputs import EXTENSIONS, VerifiedOutput
from server.system import sandbox
from server.system.memory_files import LARGE_BYTES
from server.telemetry import metrics
from tryon.protocol.errors import Unavailable, Unprocessable, UnsupportedMedia

log = logging.getLogger("tryon.imaging")

LOST: Final = b"lost "
"""The answer for a photo whose child has ended without one, before how it ended
(``template.LOST``).
"""

WORK_SECONDS: Final = 30.0
"""For one photo, waiting for a core included; a decoder that loops has used up its CPU
time before (``template.cpu_seconds``).
"""
START_SECONDS: Final = 20.0
"""For the start of a process, which takes 60 ms of CPU."""
MAX_WAITING: Final = 64
"""Photos without a process. At 0.1 s each (12 MP) the last one waits 3 s."""
RETRY_SECONDS: Final = 5
"""``Retry-After`` of a refusal."""
IDLE_SECONDS: Final = 30.0
"""After this long without work all processes but one are ended."""
STOP_SECONDS: Final = 0.7
"""The time that :meth:`Imaging.close` leaves to photos that are being worked on."""
NICENESS: Final = 5
"""A push must not wait for a photo.

Everything on one core, 12 MP photos without a pause, the loop 60 % busy: half of its
wake-ups are late by 1 ms at 0, by 0.03 ms at 5 and at 10; p99 is 8 to 10 ms at 0, 7 at
5, 1 to 6 at 10, which starves photos.
"""
PROGRAM: Final = ("-m", "server.adapters.imaging.template")

_CLEANING: Final = metrics.image_seconds.labels("clean")
_VERIFYING: Final = metrics.image_seconds.labels("verify")

_ANSWER_BYTES: Final = 4096


def _accepted() -> frozenset[ImageFormat]:
    found = {ImageFormat.JPEG, ImageFormat.PNG, ImageFormat.WEBP}
    if importlib.util.find_spec("PIL._avif"):
        found.add(ImageFormat.AVIF)
    if importlib.util.find_spec("pillow_heif"):  # the extra `heif`
        found.add(ImageFormat.HEIC)
    return frozenset(found)


ACCEPTED: Final = _accepted()
"""The formats that are accepted: JPEG, PNG and WebP always; AVIF and HEIC where their
decoder is installed.

Found without loading Pillow (10 MB).
"""


class Imaging:
    """Cleans photos and verifies results in ``workers`` processes.

    Clients' addresses take turns.

    The photos of one address are taken in the order of their arrival; at most
    ``2 * workers - 1`` processes work at once (:class:`.turns.Turns`).

    An async context manager, or :meth:`warm` and :meth:`close`. Processes start when
    they are needed; ``keep`` are kept. Each forks a child for every photo, which may
    use 512 MiB + 26 bytes a pixel of address space (1.6 GB at 40 MP; an honest photo
    takes 8 to 24 bytes a pixel).
    """

    def __init__(
        self,
        limits: Limits,
        *,
        workers: int = 2,
        keep: int = 1,
        niceness: int = NICENESS,
        work_seconds: float = WORK_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.limits = limits
        self._niceness = niceness
        self._work_seconds = work_seconds
        self._program = program
        self._processes = ImageProcesses(keep=keep, idle_seconds=idle_seconds, on_readable=self._readable)
        self._turns = Turns(workers)
        self._closing = False
        self.sandbox_missing: tuple[str, ...] | None = None
        """Layers of the sandbox that this machine lacks; None while that is unknown."""

    def __repr__(self) -> str:
        return f"<Imaging {self._processes!r} {self._turns!r} {self.limits}>"

    @property
    def pids(self) -> list[int]:
        """The process ids, those of starting processes included."""
        return self._processes.pids

    @property
    def waiting(self) -> int:
        """The number of photos that have no process yet."""
        return len(self._turns)

    def warm(self) -> None:
        """Start the first process (60 ms of CPU), so that no photo waits for it."""
        if not self._processes and not self._closing:
            self._start()

    async def clean(self, source: BinaryIO, *, address: str = "") -> CleanImage:
        """Return the picture in ``source``, read from its beginning, cleaned.

        Waits for an idle process and the turn of ``address``, which stands for the
        client; ``source`` must stay open until then. A caller that
        is cancelled gives up its place; a photo that is being worked on already is
        finished and its result dropped.

        Raises ``unsupported_image``, ``unreadable_image`` (also when the decoder
        crashed or took too much time or memory), ``too_many_pixels``,
        ``image_too_large``, ``image_too_small``, ``body_too_large`` or, when too many
        photos are waiting or no process can be started, ``unavailable``.
        """
        with _CLEANING.time():
            data, kind, width, height = await self._work(PhotoJob(source, address))
        return CleanImage(data, ImageFormat[kind], width, height)

    async def verify(self, source: BinaryIO, type: str, *, generated: bool, address: str = "") -> VerifiedOutput:
        """Return the result in ``source``, read from its beginning, as it may be shown.

        ``type`` is the one that its processor announced; ``generated`` results are
        marked as made by a model. ``source`` must stay open, as in :meth:`clean`;
        ``address`` stands for the session.

        Raises ``unavailable`` if no process can be started or too many files wait: the
        same file may pass later. Any other TryOnError says what is wrong with the file
        (:meth:`clean` lists them): it is not of its type, damaged or too large, or its
        decoder crashed or took too much time or memory.
        """
        if type not in EXTENSIONS:
            raise UnsupportedMedia("unsupported_image", f"{type[:64]!r} is no type of a result.")
        request = f"{VERIFY} {type} {int(generated)}"
        with _VERIFYING.time():
            data, kind, width, height = await self._work(PhotoJob(source, address, request=request, kinds=EXTENSIONS))
        digest = await asyncio.to_thread(_sha256, data) if len(data) > LARGE_BYTES else _sha256(data)
        return VerifiedOutput(data=data, type=kind, width=width, height=height, sha256=digest)

    async def _work(self, job: PhotoJob) -> tuple[bytes, str, int, int]:
        if self._closing or not self._has_room(job.address):
            raise Unavailable(retry_after=RETRY_SECONDS)
        self._turns.add(job)
        self._go_on()
        try:
            return await job.picture(self.limits.max_result_bytes)
        finally:
            if job.answer.cancelled():
                self._turns.discard(job)
            job.close()

    async def close(self) -> None:
        """End every process within a second.

        Photos that wait or are being worked on get 0.7 s of it, then they are refused.
        """
        self._closing = True
        unanswered = [job.answer for job in (*self._turns, *self._processes.jobs) if not job.answer.done()]
        if unanswered:
            await asyncio.wait(unanswered, timeout=STOP_SECONDS)
        for job in (*self._turns.clear(), *self._processes.jobs):
            job.refuse(Unavailable(retry_after=RETRY_SECONDS))
        await self._processes.close()

    async def __aenter__(self) -> Imaging:
        self.warm()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- changes of state: plain functions, all of them on the loop --------------------

    def _has_room(self, address: str) -> bool:
        """Return whether one more photo may wait.

        In a full queue the address with the most photos loses its newest one.
        """
        if len(self._turns) < MAX_WAITING:
            return True
        job = self._turns.newest_of_most(address)
        if job is None:
            return False
        self._turns.discard(job)
        job.refuse(Unavailable(retry_after=RETRY_SECONDS))
        return True

    def _go_on(self) -> None:
        """Hand waiting photos to idle processes, and start processes for the others."""
        idle = self._processes.idle
        while idle and (job := self._turns.take()) is not None:
            process = idle.pop()
            try:
                process.begin(job)
            except BrokenPipeError:
                self._turns.put_back(job)
                self._processes.end(process)
            except (ValueError, OSError) as error:  # closed by its owner; no memory, no descriptor
                idle.append(process)
                log.warning("Cannot hand a photo over: %s", error)
                self._turns.end(job)
                job.refuse(Unavailable(retry_after=RETRY_SECONDS))
            else:
                process.set_timer(self._work_seconds, self._too_late)
        for _ in range(self._turns.startable() - self._processes.starting):
            self._start()

    def _start(self) -> None:
        try:
            process = self._processes.start(self._program, self.limits, self._niceness)
        except OSError as error:
            self._cannot_start(error)
        else:
            process.set_timer(START_SECONDS, self._too_late)

    def _cannot_start(self, reason: object) -> None:
        """Refuse all waiting photos if there is no process at all.

        The next photo tries again.
        """
        log.error("No process for images could be started: %s", reason)
        if not self._processes:
            for job in self._turns.clear():
                job.refuse(Unavailable(retry_after=RETRY_SECONDS))

    def _readable(self, process: ImageProcess) -> None:
        """Take a process's word: it is ready, has an answer, or has ended."""
        job = process.job
        try:
            message = process.socket.recv(_ANSWER_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:  # on Linux: it ended without having read the request
            if job is not None and not job.answer.done():
                self._turns.put_back(job)
                process.job = None
            message = b""
        if not message:
            self._lost(process, "ended")
        elif not process.ready:
            self._note_sandbox(message)
            self._free(process)
        elif job is not None and message.startswith(LOST):
            log.warning("The process of a photo %s", message[len(LOST) :].decode(errors="replace"))
            job.refuse(Unprocessable("unreadable_image"))
            self._free(process)
        elif job is None or not job.settle(message):
            self._lost(process, "broke the protocol")
        else:
            self._free(process)

    def _free(self, process: ImageProcess) -> None:
        process.cancel_timer()
        if process.job is not None:
            self._turns.end(process.job)
            process.job = None
        process.ready = True
        self._processes.rest(process)
        self._go_on()

    def _note_sandbox(self, message: bytes) -> None:
        """Log, once, which layers of the sandbox a process that is ready lacks."""
        if self.sandbox_missing is None:
            self.sandbox_missing = tuple(message.decode(errors="replace").split()[1:])
            sandbox.log_missing(log, "image processes", self.sandbox_missing)

    def _too_late(self, process: ImageProcess) -> None:
        self._lost(process, "took too long")

    def _lost(self, process: ImageProcess, how: str) -> None:
        """Refuse the photo of a process that crashed, met a limit or was killed.

        Other photos go on.
        """
        self._processes.end(process)
        if not process.ready:
            self._cannot_start(f"it {how}")
            return
        if process.job is not None:
            log.warning("Image process %s %s while it worked", process.process.pid, how)
            self._turns.end(process.job)
            process.job.refuse(Unprocessable("unreadable_image"))
        if not self._closing:
            self.warm()
        self._go_on()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
