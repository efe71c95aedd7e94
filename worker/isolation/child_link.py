"""A worker's handles on its fork server, its children and what runs on them: sockets,
files, signals and what they tell.

What happens when is :class:`~worker.isolation.pool.Children`'s to decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from server.config.settings import SECRET_VARIABLES
from tryon.processor import Job
from worker.isolation.messages import Answer, Cancel, End, FromChild, FromServer, Inbox, Report, Run, Setup, send

MAX_OUTPUT_BYTES: Final = 64 * 2**20

REAP_SECONDS: Final = 0.01

_LARGE: Final = 2**20
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_ROOT: Final = Path(__file__).resolve().parents[2]

Reason = Literal["crashed", "memory", "cpu"]


@dataclass(frozen=True, slots=True)
class Loss:
    """A child that is gone before it has answered."""

    reason: Reason
    how: str


class Running:
    """A session on a child. ``news`` is set when there is something to look at."""

    __slots__ = ("answer", "context", "files", "job", "news", "number", "progress")

    def __init__(self, number: int, job: Job) -> None:
        self.number = number
        self.job = job
        self.news = asyncio.Event()
        self.progress: Report | None = None
        self.answer: Answer | Loss | None = None
        self.context = contextvars.copy_context()  # has the request id, for log lines that come from the child
        self.files: list[int] = []

    def __repr__(self) -> str:
        return f"<Running {self.number} {self.job.session_id}>"

    def open(self) -> Run:
        """Its message; ``files`` go with it."""
        job = self.job
        for image in (job.image, job.garment):
            if image is not None:
                self.files.append(file := _memory_file())
                _write(file, image)
        self.files.append(_memory_file())
        return Run(
            number=self.number,
            session_id=job.session_id,
            attempt=job.attempt,
            image_type=job.image_type,
            garment_type=job.garment_type,
            params=json.dumps(job.params),
        )

    async def result(self) -> bytes:
        file = self.files[-1]
        size = os.fstat(file).st_size
        if size > MAX_OUTPUT_BYTES:
            raise ValueError(f"the processor's output has {size} bytes")
        if size < _LARGE:
            return os.pread(file, size, 0)
        return await asyncio.to_thread(_read_and_close, os.dup(file), size)  # the thread goes on when this is cancelled

    def settle(self, answer: Answer | Loss) -> None:
        if self.answer is None:
            self.answer = answer
            self.news.set()

    def close(self) -> None:
        while self.files:
            os.close(self.files.pop())


class Server:
    """A fork server's process, and who waits for a child from it."""

    __slots__ = ("asked", "inbox", "loaded", "process", "refusal", "socket", "started")

    def __init__(self, program: Sequence[str], setup: Setup) -> None:
        self.asked: deque[Child] = deque()
        self.inbox = Inbox(FromServer)
        self.loaded = False
        self.refusal: str | None = None
        self.started = asyncio.get_running_loop().time()
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, *program, str(os.getpid())],
                    stdin=theirs.fileno(),
                    env=_environment(),
                    start_new_session=True,
                )
                send(self.socket, setup)
            except OSError:
                self.socket.close()
                raise

    def __repr__(self) -> str:
        return f"<Server {self.process.pid} asked={len(self.asked)}>"


class Child:
    """One process: asked for, then warming, then idle or at work, then gone.

    :class:`Children` changes its state.
    """

    __slots__ = (
        *("built", "fresh_bytes", "idle_since", "inbox", "leaving", "pid", "ready", "run", "server", "socket", "timer"),
        "warms",
    )

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.pid = 0
        self.built: asyncio.Future[None] = loop.create_future()
        """The processor is made. ConfigError, NotStarted: it cannot be."""
        self.ready: asyncio.Future[None] = loop.create_future()
        for future in (self.built, self.ready):
            future.add_done_callback(asyncio.Future.exception)  # seen, whether or not anybody waits for it
        self.warms = False
        self.fresh_bytes = 0
        self.leaving = False
        """Told to end: no loss."""
        self.run: Running | None = None
        self.idle_since = loop.time()
        self.timer: asyncio.TimerHandle | None = None
        self.server: Server | None = None
        self.socket: socket.socket | None = None
        self.inbox = Inbox(FromChild)

    def __repr__(self) -> str:
        state = "warming" if not self.ready.done() else "at work" if self.run is not None else "idle"
        return f"<Child {self.pid} {state}>"

    def say(self, message: Run | Cancel | End, files: Sequence[int] = ()) -> None:
        """Raises OSError if it is gone."""
        assert self.socket is not None
        send(self.socket, message, files)

    def fail(self, error: Exception) -> None:
        """To whoever waits for it to become ready."""
        for future in (self.built, self.ready):
            if not future.done():
                future.set_exception(error)


def set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def ended(status: int | None) -> str:
    if status is None:
        return "closed its connection"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


async def reaped(process: subprocess.Popen[bytes]) -> None:
    """Wait until it has ended; for half a second if it must be killed."""
    for _ in range(int(0.5 / REAP_SECONDS)):
        if process.poll() is not None:
            return
        await asyncio.sleep(REAP_SECONDS)
    process.kill()
    process.wait()


def rss_bytes(pid: int) -> int:
    """Memory that is there (``man 5 proc``); 0 for a process that is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _memory_file() -> int:
    """A new file without a name."""
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    return os.memfd_create("photo")


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _read_and_close(file: int, size: int) -> bytes:
    try:
        return os.pread(file, size, 0)
    finally:
        os.close(file)


def _environment() -> dict[str, str]:
    """Ours, without the product's secrets; it finds this very code, installed or not."""
    found = {name: text for name, text in os.environ.items() if name not in SECRET_VARIABLES}
    if (_ROOT / "pyproject.toml").exists():
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), found.get("PYTHONPATH"))))
    return found
