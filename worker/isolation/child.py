"""The code of a child process: one processor, and one session at a time.

The photo comes as a file and the result goes into one; everything else travels in
:mod:`~worker.isolation.messages`. A crash, a loop, a leak or a run without an end
harms this process and its session alone. The :mod:`~worker.isolation.pool` watches from
outside, and kills this process with all that it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import io
import json
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from server.config.settings import ConfigError
from server.system import processes
from server.system.memory_files import write_all
from tryon.processor import Job, Output, Processor, ProcessorError, needs_of
from worker.isolation.confinement import Confinement
from worker.isolation.messages import (
    Answer,
    Cancel,
    Cancelled,
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
    StartFailed,
    Warming,
    send,
)
from worker.processors import registry
from worker.processors.registry import Make

BROKEN: Final = 70
"""Exit status of a child whose own code failed, not the processor's (EX_SOFTWARE of
sysexits.h).
"""

REPORT_SECONDS: Final = 0.05
"""Least time between two reports that are sent; of those between, the newest is sent.
"""

KEEP_SECONDS: Final = 0.5
"""Time for which the memory of one job is kept for the next."""

OOM_SCORE: Final = 500
"""Added to the kernel's choice of whom to kill when the machine runs out of memory
(proc(5), ``oom_score_adj``).
"""

_READ_BYTES: Final = 65536
_MOST_FILES: Final = 8
_TEXT_CHARACTERS: Final = 32768


@dataclass(frozen=True, slots=True)
class Plan:
    """The loaded code and the setup that every child of a fork server shares."""

    make: Make
    setup: Setup
    code: tuple[Path, ...]
    """Files and folders of code, which a processor may read."""


def main(worker: socket.socket, plan: Plan, temporary: Path) -> NoReturn:
    """Serve the socket until an End message comes or the worker's end is closed.

    ``temporary`` is the folder in which the processor may write.
    """
    os.setsid()  # a group of its own: it is killed with all that it has started
    processes.ignore_stop_signals()
    faulthandler.enable()  # where it crashed
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a process that may be killed prints at once
    processes.step_back(plan.setup.niceness, oom_score=OOM_SCORE)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    confinement = Confinement(plan.code, temporary)
    confinement.hide_product(plan.setup.hidden, _declared_reads(plan.make))
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(_Child(worker, plan, confinement).live())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0)


def _declared_reads(make: Make) -> tuple[str, ...]:
    """Return the class's ``reads``; an instance may have others."""
    try:
        return needs_of(make).reads
    except TypeError:  # a property, or malformed: that of the instance is judged later
        return ()


class _Threads(ThreadPoolExecutor):
    """The threads of ``asyncio.to_thread``; knows whether one still works."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="processor")
        self._working: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        self._working.add(future)
        future.add_done_callback(self._working.discard)  # before asyncio's own: the one that awaits it finds it gone
        return future

    def __repr__(self) -> str:
        return f"<_Threads working={len(self._working)}>"

    @property
    def at_work(self) -> bool:
        return bool(self._working)


class _Child:
    """This process."""

    def __init__(self, worker: socket.socket, plan: Plan, confinement: Confinement) -> None:
        self._worker = worker
        self._confinement = confinement
        self._plan = plan
        self._setup = plan.setup
        self._inbox = Inbox(FromWorker)
        self._files: list[int] = []
        self._sending = threading.Lock()
        self._copied = False
        self._loop = asyncio.get_event_loop()
        self._threads = _Threads()
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._processor: Processor | None = None
        self._returning: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "starting" if self._processor is None else "idle" if self._task is None else "busy"
        return f"<_Child {state}>"

    async def live(self) -> None:
        """Make the processor, run jobs, and close it."""
        os.register_at_fork(
            before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, processes.STOP_SIGNALS),
            after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, processes.STOP_SIGNALS),
            after_in_child=self._in_a_copy,
        )
        self._loop.set_default_executor(self._threads)
        self._loop.add_reader(self._worker, self._readable)
        self._take_over_logging()
        try:
            processor = registry.make(self._plan.make, self._setup.processor, self._setup.options)
        except ConfigError as error:
            self._send(Refused(str(error)))
            return
        # getattr: a runtime protocol would not find a method that a wrapper delegates
        if (start := getattr(processor, "start", None)) is not None:
            self._send(Warming())
            try:
                await start()
            except BaseException as error:
                self._send(StartFailed(_trace(error)))
                return
        # A thread keeps the files it could open when it began: no run may have one.
        self._threads.shutdown(wait=False)
        self._threads = _Threads()
        self._loop.set_default_executor(self._threads)
        try:
            missing = self._confinement.close(needs_of(processor))
        except (OSError, TypeError) as error:  # a layer that is there fails, or start() has changed an attribute
            self._send(StartFailed(_trace(error)))
            return
        self._processor = processor
        self._send(Ready(missing))
        await self._ending.wait()
        if (close := getattr(processor, "close", None)) is not None:
            await close()

    # -- with the worker ---------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data, files, _, _ = socket.recv_fds(self._worker, _READ_BYTES, _MOST_FILES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data, files = b"", []
        if not data:
            self._exit_orphaned()
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

    def _send(self, message: FromChild | Answer) -> None:
        """Send a message, from any thread; wait while the worker does not read."""
        try:
            with self._sending:
                send(self._worker, message)
        except OSError:
            self._exit_orphaned()

    def _exit_orphaned(self) -> NoReturn:
        """End this process and its group: the worker's connection has ended."""
        if not self._copied:
            processes.kill_group(0)
        os._exit(BROKEN)

    def _in_a_copy(self) -> None:
        """Cut off a copy of this process, which the processor has forked.

        The copy must not send messages, and can be stopped by a signal: also at this
        very moment, so its signals have been held back.
        """
        self._copied = True
        self._worker.close()
        for number in processes.STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, processes.STOP_SIGNALS)

    def _take_over_logging(self) -> None:
        root = logging.getLogger()
        root.handlers[:] = [_ToWorker(self._send)]
        root.setLevel(logging.WARNING)
        logging.getLogger("tryon").setLevel(self._setup.log_level.upper())

    # -- one session -------------------------------------------------------------------

    async def _run(self, run: Run, files: list[int]) -> None:
        if self._returning is not None:
            self._returning.cancel()
        reports = _Reports(self._send)
        try:
            if self._setup.cpu_seconds is not None:
                processes.limit_cpu(self._setup.cpu_seconds)
            answer = await self._answer(run, files, reports)
        except BaseException as error:  # a SystemExit would end the loop and this process without an answer
            answer = self._failure(run, error)
        finally:
            reports.close()
            for file in files:
                os.close(file)
        self._returning = self._loop.call_later(KEEP_SECONDS, processes.return_memory)
        self._task = None
        self._send(answer)

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
        write_all(result, output.data)
        return Done(number=run.number, left_over=self._threads.at_work, extension=str(output.extension))

    def _failure(self, run: Run, error: BaseException) -> Answer:
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
    """The ``Report`` of one run.

    It sends the newest report, at most every :data:`REPORT_SECONDS`.
    """

    def __init__(self, send: Callable[[FromChild], None]) -> None:
        self._send_message = send
        self._latest: Report | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._at = float("-inf")
        self._closed = False

    def __repr__(self) -> str:
        return f"<_Reports latest={self._latest} closed={self._closed}>"

    async def __call__(self, progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
        if self._closed:
            return
        self._latest = Report(_number(progress), None if stage is None else _text(stage)[:200], _number(eta_seconds))
        loop = asyncio.get_running_loop()
        if loop.time() >= self._at + REPORT_SECONDS:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_at(self._at + REPORT_SECONDS, self._send)
        await asyncio.sleep(0)  # a processor that reports in a loop is cancelled here

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._latest is not None:
            self._at = asyncio.get_running_loop().time()
            latest, self._latest = self._latest, None
            self._send_message(latest)

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()


class _ToWorker(logging.Handler):
    """Sends the processor's log lines to the worker, which logs them with its own."""

    def __init__(self, send: Callable[[FromChild], None]) -> None:
        super().__init__()
        self._send_message = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else None
            text = _text(record.getMessage())
        except Exception:
            self.handleError(record)
        else:
            self._send_message(Log(record.levelno, record.name, text, trace and _text(trace)))


def _text(value: object) -> str:
    """Return the end of its text, in characters that can be encoded."""
    return str(value)[-_TEXT_CHARACTERS:].encode(errors="replace").decode()


def _trace(error: BaseException) -> str:
    return _text("".join(traceback.format_exception(error)))


def _number(value: Any) -> float | None:
    """Return a reported number; None for anything that is no finite number."""
    try:
        number = float(value) if not isinstance(value, str) else math.nan
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _read(file: int) -> bytes:
    with open(file, "rb", buffering=0, closefd=False) as source:
        source.seek(0)
        return source.read()
