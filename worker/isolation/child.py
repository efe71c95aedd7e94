"""What runs inside a child of the :mod:`~worker.isolation.forkserver`: one processor,
and one session at a time.

The photo comes as a file and the result goes into one; all else is said in
:mod:`~worker.isolation.messages`. Whatever the processor does (crash, spin, eat memory,
never return) it does here, to this process and this session alone;
:mod:`~worker.isolation.pool` watches from outside, and kills this process with all that
it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import io
import json
import logging
import math
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from server.config.settings import ConfigError
from tryon.processor import Closes, Job, Output, Processor, ProcessorError, Starts
from worker.isolation.messages import (
    Answer,
    Cancel,
    Cancelled,
    Cold,
    Done,
    End,
    Failed,
    FromChild,
    FromWorker,
    Inbox,
    Log,
    Raised,
    Ready,
    Refused,
    Report,
    Run,
    Setup,
    Warming,
    send,
)
from worker.processors import registry
from worker.processors.registry import Make

BROKEN: Final = 70
"""Exit status of a child that failed in our own code (EX_SOFTWARE of sysexits.h)."""

REPORT_SECONDS: Final = 0.05
"""A processor that reports in a loop is heard so often, the newest word each time."""

KEEP_SECONDS: Final = 0.5
"""How long the memory of one job is kept for the next."""

OOM_SCORE: Final = 500
"""Added to the kernel's choice of whom to kill when the machine runs out of memory
(proc(5), ``oom_score_adj``).
"""

_READ_BYTES: Final = 65536
_MOST_FILES: Final = 8
_TEXT_CHARACTERS: Final = 32768


@dataclass(frozen=True, slots=True)
class Plan:
    """What every child of a fork server is made of: the loaded code and its setup."""

    make: Make
    setup: Setup


def main(worker: socket.socket, plan: Plan) -> NoReturn:
    """Serves the socket until it is told to end, or the other end is gone."""
    os.setsid()  # a group of its own: it is killed with all that it has started
    be_deaf()
    faulthandler.enable()  # where it crashed
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # whoever may be killed prints at once
    _step_back(plan.setup.niceness)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(_Child(worker, plan).live())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0)


class _Threads(ThreadPoolExecutor):
    """Where ``asyncio.to_thread`` runs; knows whether something still does."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="processor")
        self._working: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        self._working.add(future)
        future.add_done_callback(self._working.discard)  # before asyncio's own: the one that awaits it finds it gone
        return future

    @property
    def at_work(self) -> bool:
        return bool(self._working)


class _Child:
    """This process."""

    def __init__(self, worker: socket.socket, plan: Plan) -> None:
        self._worker = worker
        self._plan = plan
        self._setup = plan.setup
        self._inbox = Inbox(FromWorker)
        self._files: list[int] = []
        self._saying = threading.Lock()
        self._copied = False
        self._loop = asyncio.get_event_loop()
        self._threads = _Threads()
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._processor: Processor | None = None
        self._tidying: asyncio.TimerHandle | None = None

    async def live(self) -> None:
        """From the making of the processor to its closing."""
        os.register_at_fork(
            before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING),
            after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING),
            after_in_child=self._in_a_copy,
        )
        self._loop.set_default_executor(self._threads)
        self._loop.add_reader(self._worker, self._readable)
        self._take_over_logging()
        try:
            processor = registry.make(self._plan.make, self._setup.processor, self._setup.options)
        except ConfigError as error:
            self._say(Refused(str(error)))
            return
        if isinstance(processor, Starts):
            self._say(Warming())
            try:
                await processor.start()
            except BaseException as error:
                self._say(Cold(_trace(error)))
                return
        self._processor = processor
        self._say(Ready())
        await self._ending.wait()
        if isinstance(processor, Closes):
            await processor.close()

    # -- with the worker ---------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data, files, _, _ = socket.recv_fds(self._worker, _READ_BYTES, _MOST_FILES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data, files = b"", []
        if not data:
            self._alone()
        for file in files:
            os.set_inheritable(file, False)
        self._files += files
        for message in self._inbox.take(data):
            match message:
                case Run():
                    self._cancelled = False
                    files, self._files = self._files, []
                    self._task = self._loop.create_task(self._run(message, files), name="processor")
                case Cancel():
                    self._cancelled = True
                    if self._task is not None:
                        self._task.cancel()
                case End():
                    self._ending.set()

    def _say(self, message: FromChild | Answer) -> None:
        """From any thread. Waits while the worker has something else to do."""
        try:
            with self._saying:
                send(self._worker, message)
        except OSError:
            self._alone()

    def _alone(self) -> NoReturn:
        """Without a worker there is nobody to work for."""
        if not self._copied:
            os.killpg(0, signal.SIGKILL)
        os._exit(BROKEN)

    def _in_a_copy(self) -> None:
        """A processor has forked, as multiprocessing does.

        The copy must not speak for us, and can be told to stop: also this very moment,
        so its signals have been held back.
        """
        self._copied = True
        self._worker.close()
        for number in STOPPING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def _take_over_logging(self) -> None:
        root = logging.getLogger()
        root.handlers[:] = [_ToWorker(self._say)]
        root.setLevel(logging.WARNING)
        logging.getLogger("tryon").setLevel(self._setup.log_level.upper())

    # -- one session -------------------------------------------------------------------

    async def _run(self, run: Run, files: list[int]) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
        reports = _Reports(self._say)
        try:
            if self._setup.cpu_seconds is not None:
                _limit_cpu(self._setup.cpu_seconds)
            answer = await self._answer(run, files, reports)
        except BaseException as error:  # a SystemExit would end the loop, and us without a word
            answer = self._said(run, error)
        finally:
            reports.close()
            for file in files:
                os.close(file)
        self._tidying = self._loop.call_later(KEEP_SECONDS, _return_memory)
        self._task = None
        self._say(answer)

    async def _answer(self, run: Run, files: list[int], reports: _Reports) -> Answer:
        image, *garment, result = files
        job = Job(
            session_id=run.session_id,
            attempt=run.attempt,
            image=_read(image),
            image_type=run.image_type,
            garment=_read(garment[0]) if garment else None,
            garment_type=run.garment_type,
            params=json.loads(run.params),
            number=run.number,
        )
        assert self._processor is not None
        output = await self._processor.run(job, reports)
        if not isinstance(output, Output) or not isinstance(output.data, bytes | bytearray | memoryview):
            raise TypeError(f"the processor returned {output!r}, not an Output with data and an extension")
        _write(result, output.data)
        return Done(number=run.number, left_over=self._threads.at_work, extension=str(output.extension))

    def _said(self, run: Run, error: BaseException) -> Answer:
        common: dict[str, Any] = {"number": run.number, "left_over": self._threads.at_work}
        match error:
            case asyncio.CancelledError() if self._cancelled:
                return Cancelled(**common)
            case asyncio.CancelledError():
                return Raised(**common, trace="the processor cancelled itself")
            case ProcessorError():
                return Failed(
                    **common,
                    code=_text(error.code),
                    message=None if error.message is None else _text(error.message),
                    retryable=None if error.retryable is None else bool(error.retryable),
                    requeue=bool(error.requeue),
                )
            case _:
                return Raised(**common, trace=_trace(error))


class _Reports:
    """``Report`` of one run: the newest word, at most every :data:`REPORT_SECONDS`."""

    def __init__(self, say: Callable[[FromChild], None]) -> None:
        self._say = say
        self._latest: Report | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._at = float("-inf")
        self._closed = False

    async def __call__(self, progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
        if self._closed:
            return
        self._latest = Report(_number(progress), None if stage is None else _text(stage)[:200], _number(eta_seconds))
        loop = asyncio.get_running_loop()
        if loop.time() >= self._at + REPORT_SECONDS:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_at(self._at + REPORT_SECONDS, self._send)
        await asyncio.sleep(0)  # whoever reports in a loop of its own work hears of a cancel here

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._latest is not None:
            self._at = asyncio.get_running_loop().time()
            latest, self._latest = self._latest, None
            self._say(latest)

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()


class _ToWorker(logging.Handler):
    """A processor's log lines go out with the worker's own."""

    def __init__(self, say: Callable[[FromChild], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        try:
            trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else None
            text = _text(record.getMessage())
        except Exception:
            self.handleError(record)
        else:
            self._say(Log(record.levelno, record.name, text, trace and _text(trace)))


def _text(value: object) -> str:
    """The end of it, as something that can be encoded."""
    return str(value)[-_TEXT_CHARACTERS:].encode(errors="replace").decode()


def _trace(error: BaseException) -> str:
    return _text("".join(traceback.format_exception(error)))


def _number(value: Any) -> float | None:
    """Of what a processor reports; None for what is none."""
    try:
        number = float(value) if not isinstance(value, str) else math.nan
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _read(file: int) -> bytes:
    with open(file, "rb", buffering=0, closefd=False) as source:
        source.seek(0)
        return source.read()


def _write(file: int, data: bytes | bytearray | memoryview) -> None:
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(file, left) :]


# -- the process: also the fork server's -----------------------------------------------


STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def be_deaf() -> None:
    """To the signals that stop programs: sent to all processes at once, they are for
    the worker, which drains.

    By a handler: SIG_IGN would be handed on to programs that a processor starts, and it
    could not terminate them.
    """
    for number in STOPPING:
        signal.signal(number, lambda *_: None)


def no_standard_input() -> None:
    """It was our socket; nobody types here."""
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)


def kill(pid: int) -> None:
    """A child, and all that it has started and that did not set itself apart."""
    if not kill_group(pid):  # it has not come to its setsid() yet, or is gone
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_group(pid: int) -> bool:
    """What a child has started, and itself if it is there; whether there was anything."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS: nothing but the dead are left in it
        return False
    return True


def _step_back(niceness: int) -> None:
    """As in ``server.adapters.imaging.cleaner``, where the figures stand: a push comes
    first.
    """
    os.nice(niceness)
    for name, value in (("autogroup", niceness), ("oom_score_adj", OOM_SCORE)):
        with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w") as file:
            file.write(str(value))


def _limit_cpu(seconds: float) -> None:
    """SIGXCPU comes when this job has used so much, all its threads together."""
    most = math.ceil(time.process_time() + seconds)
    _, ceiling = resource.getrlimit(resource.RLIMIT_CPU)
    if ceiling != resource.RLIM_INFINITY:
        most = min(most, ceiling)
    resource.setrlimit(resource.RLIMIT_CPU, (most, ceiling))


def _return_memory() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
