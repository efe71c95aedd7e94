"""A few limited child processes that turn anybody's photo into a clean one; the event
loop never decodes.

Between ``web.uploads``, which has the bytes, and ``sessions.submit``, which stores
them. What "clean" means, and Pillow, stands in :mod:`~server.adapters.imaging.cleaner`.
A decoder that crashes, loops or eats memory ends its own process and its own upload; a
new process takes the place.

A photo travels by file descriptor: the large one that ``web.uploads`` spooled to a file
is never read here, a small one is one write into an anonymous memory file; the result
is one read from another. A 196 kB JPEG takes 0.2 to 0.3 ms of this process' CPU (of
that 0.13 the files; pipes of 1 MiB would take 0.05, but also copy the large photos, and
block or go in pieces). All together it takes 1.11 times what Pillow alone needs for the
same decode, turn and encode, a 12 MP photo 0.91 times.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from server.domain.images import CleanImage, ImageFormat, Limits
from tryon.protocol.errors import CODES, TryOnError, Unavailable, Unprocessable

log = logging.getLogger("tryon.imaging")

WORK_SECONDS: Final = 30.0
"""For one photo, waiting for a core included; a decoder that loops has used up its CPU
time before (``imaging_child.CPU_SECONDS``).
"""
START_SECONDS: Final = 20.0
MAX_WAITING: Final = 64
"""Photos without a process. At 0.1 s each (12 MP) the last one waits 3 s."""
RETRY_SECONDS: Final = 5
IDLE_SECONDS: Final = 30.0
"""After this long without work all processes but one go."""
IMAGES_PER_PROCESS: Final = 1000
"""A decoder may leak, and the address space is limited: a new process, 60 ms of CPU,
comes before it is used up.
"""
STOP_SECONDS: Final = 0.7
"""What :meth:`Imaging.close` leaves to photos that are being worked on."""
NICENESS: Final = 5
"""A push must not wait for a photo.

Everything on one core, 12 MP photos without a pause, the loop 60 % busy: half of its
wake-ups are late by 1 ms at 0, by 0.03 ms at 5 and at 10; p99 is 8 to 10 ms at 0, 7 at
5, 1 to 6 at 10, which starves photos.
"""
PROGRAM: Final = ("-P", "-m", "server.adapters.imaging.cleaner")

_LARGE: Final = 2**20
"""Bytes of a result from which on a thread reads it: 1 MiB is 0.2 ms."""
_REAP_SECONDS: Final = 0.01
_ANSWER_BYTES: Final = 4096
_ROOT: Final = Path(__file__).resolve().parents[3]
_DONE: Final = re.compile(r"([A-Z]+) (\d{1,5}) (\d{1,5})", re.ASCII)


def _accepted() -> frozenset[ImageFormat]:
    found = {ImageFormat.JPEG, ImageFormat.PNG, ImageFormat.WEBP}
    if importlib.util.find_spec("PIL._avif"):
        found.add(ImageFormat.AVIF)
    if importlib.util.find_spec("pillow_heif"):  # the extra `heif`
        found.add(ImageFormat.HEIC)
    return frozenset(found)


ACCEPTED: Final = _accepted()
"""JPEG, PNG and WebP always; AVIF and HEIC where their decoder is installed.

Found without loading Pillow (10 MB).
"""


class _Job:
    """A photo on its way.

    ``answer`` is format, width and height of the picture that then stands in the file
    ``result``.
    """

    __slots__ = ("answer", "result", "source")

    def __init__(self, source: BinaryIO) -> None:
        self.source = source
        self.answer: asyncio.Future[tuple[ImageFormat, int, int]] = asyncio.get_running_loop().create_future()
        self.result = -1

    def refuse(self, error: TryOnError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def close(self) -> None:
        if self.result >= 0:
            os.close(self.result)
            self.result = -1


class _Child:
    """One process: starting, then idle or busy, then gone.

    Plain functions; whoever changes its state is :class:`Imaging`.
    """

    __slots__ = ("idle_since", "images", "job", "process", "ready", "socket", "timer")

    def __init__(self, program: Sequence[str], limits: Limits, niceness: int) -> None:
        self.ready = False
        self.job: _Job | None = None
        self.images = 0
        self.idle_since = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)
        numbers = (niceness, limits.max_bytes, limits.min_side, limits.max_side, limits.max_pixels)
        with theirs:
            try:
                self.process = subprocess.Popen(  # vfork: 1 ms, however large this process is
                    [sys.executable, *program, *map(str, numbers)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                    start_new_session=True,
                )
            except OSError:
                self.socket.close()
                raise

    def __repr__(self) -> str:
        state = "starting" if not self.ready else "busy" if self.job is not None else "idle"
        return f"<_Child {self.process.pid} {state} images={self.images}>"

    def begin(self, job: _Job) -> None:
        """Hands the photo over.

        Raises BrokenPipeError if the process is gone; ValueError or OSError are the
        job's own.
        """
        with contextlib.ExitStack() as stack:
            if isinstance(job.source, io.BytesIO):
                source = _memory_file()
                stack.callback(os.close, source)
                with job.source.getbuffer() as content:
                    if content and os.write(source, content) != len(content):
                        raise OSError("a short write to memory")
            else:
                job.source.flush()
                source = job.source.fileno()
            job.close()
            job.result = _memory_file()
            try:
                socket.send_fds(self.socket, [b"clean"], [source, job.result])
            except OSError as error:
                raise BrokenPipeError from error
        self.job = job


class Imaging:
    """Cleans photos in at most ``workers`` processes, in the order in which they came.

    An async context manager, or :meth:`warm` and :meth:`close`. Processes start when
    they are needed; one is kept. Each may use 512 MiB + 26 bytes a pixel of address
    space (1.6 GB at 40 MP; an honest photo takes 8 to 24 bytes a pixel).
    """

    def __init__(
        self,
        limits: Limits,
        *,
        workers: int = 2,
        niceness: int = NICENESS,
        work_seconds: float = WORK_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        images_per_process: int = IMAGES_PER_PROCESS,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.limits = limits
        self._workers = workers
        self._niceness = niceness
        self._work_seconds = work_seconds
        self._idle_seconds = idle_seconds
        self._images_per_process = images_per_process
        self._program = program
        self._children: set[_Child] = set()
        self._idle: list[_Child] = []  # the last one worked last; the first ones are let go
        self._ending: list[_Child] = []  # killed, not yet reaped
        self._waiting: deque[_Job] = deque()
        self._trimmer: asyncio.TimerHandle | None = None
        self._reaper: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()
        self._closing = False

    def __repr__(self) -> str:
        return f"<Imaging processes={len(self._children)} idle={len(self._idle)} waiting={len(self._waiting)} {self.limits}>"

    @property
    def pids(self) -> list[int]:
        """Of the processes that are there, starting ones included."""
        return sorted(child.process.pid for child in self._children)

    @property
    def waiting(self) -> int:
        """Photos that have no process yet."""
        return len(self._waiting)

    def warm(self) -> None:
        """Starts the first process (60 ms of CPU), so that the first photo need not
        wait for it.
        """
        if not self._children:
            self._start()

    async def clean(self, source: BinaryIO) -> CleanImage:
        """The picture in ``source``, read from its beginning, cleaned.

        Waits for a free process; ``source`` must stay open until then. A caller that is
        cancelled gives up its place; what is being worked on already is finished and
        forgotten.

        Raises ``unsupported_image``, ``unreadable_image`` (also when the decoder
        crashed or took too much time or memory), ``too_many_pixels``,
        ``image_too_large``, ``image_too_small``, ``body_too_large`` or, when too many
        are waiting or no process can be started, ``unavailable``.
        """
        if self._closing or (not self._idle and len(self._waiting) >= MAX_WAITING):
            raise Unavailable(retry_after=RETRY_SECONDS)
        job = _Job(source)
        self._waiting.append(job)
        self._go_on()
        try:
            return await self._result(job)
        finally:
            if job.answer.cancelled():
                with contextlib.suppress(ValueError):
                    self._waiting.remove(job)
            job.close()

    async def _result(self, job: _Job) -> CleanImage:
        format, width, height = await job.answer
        size = os.fstat(job.result).st_size
        if size > self.limits.max_result_bytes:
            raise Unprocessable("unreadable_image")
        if size < _LARGE:
            data = os.pread(job.result, size, 0)
        else:
            file = os.dup(job.result)  # the thread goes on when this task is cancelled
            data = await asyncio.to_thread(_read_and_close, file, size)
        return CleanImage(data, format, width, height)

    async def close(self) -> None:
        """Ends every process within a second.

        What is there gets 0.7 s of it, then it is refused.
        """
        self._closing = True
        if self._trimmer is not None:
            self._trimmer.cancel()
        jobs = [*self._waiting, *(child.job for child in self._children if child.job is not None)]
        if unanswered := [job.answer for job in jobs if not job.answer.done()]:
            await asyncio.wait(unanswered, timeout=STOP_SECONDS)
        self._waiting.clear()
        for job in jobs:
            job.refuse(Unavailable(retry_after=RETRY_SECONDS))
        for child in list(self._children):
            self._end(child)
        while self._ending:
            self._all_gone.clear()
            await self._all_gone.wait()

    async def __aenter__(self) -> Imaging:
        self.warm()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # State changes: plain functions, all of them on the loop

    def _go_on(self) -> None:
        """Gives work to whoever is free, and starts processes for the rest."""
        while self._waiting and self._idle:
            child, job = self._idle.pop(), self._waiting.popleft()
            try:
                child.begin(job)
            except BrokenPipeError:
                self._waiting.appendleft(job)
                self._end(child)
            except (ValueError, OSError) as error:  # closed by its owner; no memory, no descriptor
                self._idle.append(child)
                log.warning("Cannot hand a photo over: %s", error)
                job.refuse(Unavailable(retry_after=RETRY_SECONDS))
            else:
                child.timer = asyncio.get_running_loop().call_later(self._work_seconds, self._too_late, child)
        starting = sum(not child.ready for child in self._children)
        for _ in range(min(len(self._waiting) - starting, self._workers - len(self._children))):
            self._start()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            child = _Child(self._program, self.limits, self._niceness)
        except OSError as error:
            self._cannot_start(error)
            return
        self._children.add(child)
        child.timer = loop.call_later(START_SECONDS, self._too_late, child)
        loop.add_reader(child.socket, self._readable, child)

    def _cannot_start(self, reason: object) -> None:
        """Without any process nobody may be left waiting; the next photo tries again."""
        log.error("No process for images could be started: %s", reason)
        if not self._children:
            while self._waiting:
                self._waiting.popleft().refuse(Unavailable(retry_after=RETRY_SECONDS))

    def _readable(self, child: _Child) -> None:
        """It is ready, has an answer, or is gone."""
        job = child.job
        try:
            message = child.socket.recv(_ANSWER_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:  # so Linux tells that it ended without having read the request
            if job is not None and not job.answer.done():
                self._waiting.appendleft(job)
            child.job = None
            message = b""
        if not message:
            self._lost(child, "ended")
        elif child.ready and (job is None or not _settle(job, message)):
            self._lost(child, "spoke nonsense")
        else:
            self._free(child)

    def _free(self, child: _Child) -> None:
        loop = asyncio.get_running_loop()
        if child.timer is not None:
            child.timer.cancel()
        if child.job is not None:
            child.job = None
            child.images += 1
        child.ready = True
        if child.images >= self._images_per_process:
            self._end(child)
        else:
            child.idle_since = loop.time()
            self._idle.append(child)
            if len(self._children) > 1 and self._trimmer is None:
                self._trimmer = loop.call_later(self._idle_seconds, self._trim)
        self._go_on()

    def _too_late(self, child: _Child) -> None:
        self._lost(child, "took too long")

    def _lost(self, child: _Child, how: str) -> None:
        """A crash, a limit, a kill from outside: whoever was with it is refused, nobody
        else notices.
        """
        self._end(child)
        if not child.ready:
            self._cannot_start(f"it {how}")
            return
        if child.job is not None:
            log.warning("Image process %s %s while it worked", child.process.pid, how, extra={"images": child.images})
            child.job.refuse(Unprocessable("unreadable_image"))
        if not self._closing:
            self.warm()
        self._go_on()

    def _trim(self) -> None:
        """Lets go who has been idle for too long, but for the last one."""
        loop = asyncio.get_running_loop()
        self._trimmer = None
        while len(self._children) > 1 and self._idle:
            due = self._idle[0].idle_since + self._idle_seconds
            if due > loop.time():
                self._trimmer = loop.call_at(due, self._trim)
                return
            self._end(self._idle[0])

    def _end(self, child: _Child) -> None:
        """Takes it out of everything, and kills it: it holds nothing that is worth a
        farewell.
        """
        if child not in self._children:
            return
        self._children.remove(child)
        if child in self._idle:
            self._idle.remove(child)
        if child.timer is not None:
            child.timer.cancel()
        asyncio.get_running_loop().remove_reader(child.socket)
        child.socket.close()
        child.process.kill()
        self._ending.append(child)
        if self._reaper is None:
            self._reap()

    def _reap(self) -> None:
        self._ending = [child for child in self._ending if child.process.poll() is None]
        self._reaper = asyncio.get_running_loop().call_later(_REAP_SECONDS, self._reap) if self._ending else None
        if not self._ending:
            self._all_gone.set()


def _settle(job: _Job, message: bytes) -> bool:
    """Gives the job its answer. False if no honest process says such a thing."""
    line = message.decode(errors="replace")
    code, _, detail = line.partition(" ")
    if code in CODES:
        job.refuse(CODES[code](code, detail or None))
    elif (done := _DONE.fullmatch(line)) and done[1] in ImageFormat.__members__:
        if not job.answer.done():
            job.answer.set_result((ImageFormat[done[1]], int(done[2]), int(done[3])))
    else:
        return False
    return True


def _memory_file() -> int:
    """A new file without a name."""
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    return os.memfd_create("photo")


def _read_and_close(file: int, size: int) -> bytes:
    try:
        return os.pread(file, size, 0)
    finally:
        os.close(file)


def _environment() -> dict[str, str]:
    """No setting and no secret of ours; it finds this very code, installed or not."""
    names = ("PATH", "PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")
    found = {name: os.environ[name] for name in names if name in os.environ}
    if (_ROOT / "pyproject.toml").exists():
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), found.get("PYTHONPATH"))))
    return found
