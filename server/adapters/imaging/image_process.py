"""The image processes that a pool has: started, idle, at work, ended.

One of them is an :class:`ImageProcess`; :class:`ImageProcesses` starts and ends them,
and ends those that are idle for too long.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Final

from server.adapters.imaging.photo_job import PhotoJob
from server.domain.images import Limits
from server.system.processes import kill_family, python, python_environment

INHERITED: Final = ("PATH", "PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")
"""The environment of an image process: no setting and no secret of the product."""

_REAP_SECONDS: Final = 0.01


class ImageProcess:
    """One process: starting, then idle or at work, then ended.

    The pool decides which.
    """

    __slots__ = ("idle_since", "job", "process", "ready", "socket", "timer")

    def __init__(self, program: Sequence[str], limits: Limits, niceness: int) -> None:
        self.ready = False
        self.job: PhotoJob | None = None
        self.idle_since = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)
        numbers = (os.getpid(), niceness, limits.max_bytes, limits.min_side, limits.max_side, limits.max_pixels)
        with theirs:
            try:
                self.process = subprocess.Popen(  # vfork: 1 ms, however large this process is
                    python(*program, *map(str, numbers)),
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
        return f"<ImageProcess {self.process.pid} {state}>"

    def begin(self, job: PhotoJob) -> None:
        """Hand the photo over.

        Raises BrokenPipeError if the process has ended; ValueError or OSError are the
        job's own.
        """
        source, ours = job.open_source()
        try:
            result = job.open_result()
            try:
                socket.send_fds(self.socket, [job.request], [source, result])
            except OSError as error:
                raise BrokenPipeError from error
        finally:
            if ours:
                os.close(source)
        self.job = job

    def set_timer(self, seconds: float, call: Callable[[ImageProcess], None]) -> None:
        """Call with this process after a time, unless another timer is set before."""
        self.cancel_timer()
        self.timer = asyncio.get_running_loop().call_later(seconds, call, self)

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class ImageProcesses:
    """The running processes, and the idle ones among them.

    ``on_readable`` is called with a process that has sent something or has ended. Of
    idle processes, ``keep`` stay however long they are idle.
    """

    def __init__(self, *, keep: int, idle_seconds: float, on_readable: Callable[[ImageProcess], None]) -> None:
        self._keep = keep
        self._idle_seconds = idle_seconds
        self._on_readable = on_readable
        self._all: set[ImageProcess] = set()
        self.idle: list[ImageProcess] = []
        """The last one worked last; the first ones are ended when nothing is to do."""
        self._ending: list[ImageProcess] = []  # killed, not yet reaped
        self._trimmer: asyncio.TimerHandle | None = None
        self._reaper: asyncio.TimerHandle | None = None
        self._all_reaped = asyncio.Event()

    def __repr__(self) -> str:
        return f"<ImageProcesses {len(self._all)} idle={len(self.idle)} ending={len(self._ending)}>"

    def __len__(self) -> int:
        return len(self._all)

    @property
    def pids(self) -> list[int]:
        """The process ids, those of starting processes included."""
        return sorted(process.process.pid for process in self._all)

    @property
    def starting(self) -> int:
        """The number of processes that are not ready yet."""
        return sum(not process.ready for process in self._all)

    @property
    def jobs(self) -> list[PhotoJob]:
        """The photos that are being worked on."""
        return [process.job for process in self._all if process.job is not None]

    def start(self, program: Sequence[str], limits: Limits, niceness: int) -> ImageProcess:
        """Start a process. Raises OSError: no memory, process or descriptor is left."""
        process = ImageProcess(program, limits, niceness)
        self._all.add(process)
        asyncio.get_running_loop().add_reader(process.socket, self._on_readable, process)
        return process

    def rest(self, process: ImageProcess) -> None:
        """Let the process wait for the next photo; it ends if that takes too long."""
        loop = asyncio.get_running_loop()
        process.idle_since = loop.time()
        self.idle.append(process)
        if len(self._all) > self._keep and self._trimmer is None:
            self._trimmer = loop.call_later(self._idle_seconds, self._trim)

    def _trim(self) -> None:
        """End the processes that were idle for too long, but for those to keep."""
        loop = asyncio.get_running_loop()
        self._trimmer = None
        while len(self._all) > self._keep and self.idle:
            due = self.idle[0].idle_since + self._idle_seconds
            if due > loop.time():
                self._trimmer = loop.call_at(due, self._trim)
                return
            self.end(self.idle[0])

    def end(self, process: ImageProcess) -> None:
        """Kill a process and its child: neither has anything to put in order."""
        if process not in self._all:
            return
        self._all.remove(process)
        if process in self.idle:
            self.idle.remove(process)
        process.cancel_timer()
        asyncio.get_running_loop().remove_reader(process.socket)
        process.socket.close()
        kill_family(process.process.pid)  # it is not reaped yet, so the id is its own
        self._ending.append(process)
        if self._reaper is None:
            self._reap()

    def _reap(self) -> None:
        self._ending = [process for process in self._ending if process.process.poll() is None]
        self._reaper = asyncio.get_running_loop().call_later(_REAP_SECONDS, self._reap) if self._ending else None
        if not self._ending:
            self._all_reaped.set()

    async def close(self) -> None:
        """End every process, and wait until the system has ended them."""
        if self._trimmer is not None:
            self._trimmer.cancel()
        for process in list(self._all):
            self.end(process)
        while self._ending:
            self._all_reaped.clear()
            await self._all_reaped.wait()


def _environment() -> dict[str, str]:
    """Return the environment of an image process."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return python_environment(kept)
