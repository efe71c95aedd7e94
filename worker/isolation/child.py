"""The code of a child process: one processor, and its runs.

Pictures come and go as files in memory; everything else travels in
:mod:`~worker.isolation.messages`. A crash, a loop, a leak or a run without an end
harms this process and its sessions alone. The :mod:`~worker.isolation.pool` watches
from outside, and kills this process with all that it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import faulthandler
import functools
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
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

from server.config.settings import ConfigError
from server.system import processes
from server.system.memory_files import memory_file, path_of
from tryon.processor import Info, Input, Job, Output, Processor, ProcessorError, Reference, Result, needs_of
from tryon.processor.validation import outputs_of
from worker.isolation.child_report import ChildReport, Send, text_of
from worker.isolation.confinement import Confinement
from worker.isolation.messages import (
    MAX_FILES,
    Answer,
    Cancel,
    Cancelled,
    CleanUp,
    Committed,
    Done,
    End,
    Failed,
    FromChild,
    FromWorker,
    Inbox,
    Log,
    Made,
    Raised,
    Ready,
    Refused,
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

KEEP_SECONDS: Final = 0.5
"""Time for which the memory of one job is kept for the next."""

OOM_SCORE: Final = 500
"""Added to the kernel's choice of whom to kill when the machine runs out of memory
(proc(5), ``oom_score_adj``).
"""

_READ_BYTES: Final = 65536

_run_number: contextvars.ContextVar[int | None] = contextvars.ContextVar("_run_number", default=None)
"""The run that a task or thread belongs to."""


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
        self._runs: dict[int, _Running] = {}
        self._processor: Processor | None = None
        self._info: Info | None = None
        self._returning: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "starting" if self._processor is None else f"runs={sorted(self._runs)}"
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
            info = registry.info_of(processor, self._setup.processor)
        except (OSError, TypeError) as error:  # a layer that is there fails, or start() has changed an attribute
            self._send(StartFailed(_trace(error)))
            return
        except ConfigError as error:
            self._send(Refused(str(error)))
            return
        self._processor, self._info = processor, info
        resumes, forgets = (getattr(processor, name, None) is not None for name in ("resume", "forget"))
        self._send(Ready(info, missing, resumes=resumes, forgets=forgets))
        await self._ending.wait()
        if (close := getattr(processor, "close", None)) is not None:
            await close()

    # -- with the worker ---------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data, files, _, _ = socket.recv_fds(self._worker, _READ_BYTES, MAX_FILES, socket.MSG_DONTWAIT)
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
                    count = len(message.inputs)
                    files, self._files = self._files[:count], self._files[count:]
                    self._begin(message.number, files, functools.partial(self._work, message, files))
                case CleanUp():
                    self._begin(message.number, [], functools.partial(self._clean_up, message))
                case Committed(number=number, lost=lost):
                    if (running := self._runs.get(number)) is not None:
                        running.report.committed(lost=lost)
                case Cancel(number=number):
                    if (running := self._runs.get(number)) is not None:
                        running.cancel()
                case End():
                    self._ending.set()

    def _send(self, message: FromChild | Answer, files: Sequence[int] = ()) -> None:
        """Send a message, from any thread; wait while the worker does not read."""
        try:
            with self._sending:
                send(self._worker, message, files)
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

    # -- the runs ----------------------------------------------------------------------

    def _begin(self, number: int, files: list[int], work: Work) -> None:
        """Start a task that does the work and answers; it closes the files."""
        if self._returning is not None:
            self._returning.cancel()
        context = contextvars.copy_context()
        context.run(_run_number.set, number)
        report = ChildReport(number, self._send)
        task = self._loop.create_task(self._run(number, files, work), name="processor", context=context)
        task.add_done_callback(_end_if_broken)
        self._runs[number] = _Running(task, report)

    async def _run(self, number: int, files: list[int], work: Work) -> None:
        running = self._runs[number]
        outputs: tuple[Output, ...] = ()
        answer: Answer | None = None
        made: list[int] = []
        try:
            if self._setup.cpu_seconds is not None:
                processes.limit_cpu(self._setup.cpu_seconds)
            outputs = await work(running.report)
            for output in outputs:
                made.append(memory_file(output.data))
            heads = [Made(output.role, output.type) for output in outputs]
            answer = Done(number=number, left_over=self._left_over(), outputs=heads)
        except BaseException as error:  # a SystemExit would end the loop and this process without an answer
            answer = self._failure(number, error)
        finally:
            running.report.close()
            del self._runs[number]
            for file in files:
                os.close(file)
        if not self._runs:
            self._returning = self._loop.call_later(KEEP_SECONDS, processes.return_memory)
        self._send(answer, made if isinstance(answer, Done) else ())
        for file in made:
            os.close(file)

    async def _work(self, run: Run, files: list[int], report: ChildReport) -> tuple[Output, ...]:
        assert self._processor is not None
        job = Job(
            session_id=run.session_id,
            attempt=run.attempt,
            attempts_left=run.attempts_left,
            inputs=tuple(
                Input(
                    role=each.role,
                    index=each.index,
                    type=each.type,
                    path=path_of(file),
                    bytes=each.bytes,
                    sha256=each.sha256,
                    width=each.width,
                    height=each.height,
                )
                for each, file in zip(run.inputs, files, strict=True)
            ),
            params=json.loads(run.params),
            seed=run.seed,
            deadline_at=math.inf if run.deadline_at is None else run.deadline_at,
            trace=run.trace,
            number=run.number,
        )
        result: Result
        # getattr: a runtime protocol would not find a method that a wrapper delegates
        if run.checkpoint is not None and (resume := getattr(self._processor, "resume", None)) is not None:
            result = await resume(job, json.loads(run.checkpoint), report)
        else:
            result = await self._processor.run(job, report)
        return outputs_of(result, self._info)

    async def _clean_up(self, task: CleanUp, report: ChildReport) -> tuple[Output, ...]:
        """Cancel or forget work upstream, if the processor can do either.

        One that cannot forget at least stops the work for an erased session.
        """
        method = getattr(self._processor, task.method, None) or getattr(self._processor, "cancel", None)
        if method is not None:
            await method(Reference(key=task.key), json.loads(task.checkpoint))
        return ()

    def _left_over(self) -> bool:
        """Return whether threads of the runs that have ended still work."""
        return len(self._runs) == 1 and self._threads.at_work

    def _failure(self, number: int, error: BaseException) -> Answer:
        common: dict[str, Any] = {"number": number, "left_over": self._left_over()}
        match error:
            case asyncio.CancelledError() if self._runs[number].cancelled:
                return Cancelled(**common)
            case asyncio.CancelledError():
                return Raised(**common, trace="the processor cancelled itself")
            case ProcessorError():
                return Failed(
                    **common,
                    code=text_of(error.code),
                    message=None if error.message is None else text_of(error.message),
                    retryable=None if error.retryable is None else bool(error.retryable),
                    requeue=bool(error.requeue),
                    retry_after=None if error.retry_after is None else _seconds(error.retry_after),
                )
            case _:
                return Raised(**common, trace=_trace(error))


def _end_if_broken(task: asyncio.Task[None]) -> None:
    """End the process if a run has not answered: its session would wait in vain."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logging.getLogger("tryon.processor").error("A run could not be answered", exc_info=error)
        os._exit(BROKEN)


Work: TypeAlias = Callable[[ChildReport], Awaitable[tuple[Output, ...]]]


@dataclass(slots=True)
class _Running:
    """A run of this child."""

    task: asyncio.Task[None]
    report: ChildReport
    cancelled: bool = False
    """The worker has asked for it."""

    def cancel(self) -> None:
        self.cancelled = True
        asyncio.get_running_loop().call_soon(self.task.cancel)  # after its first step, or it would never answer


class _ToWorker(logging.Handler):
    """Sends the processor's log lines to the worker, which logs them with its own."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send_message = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else None
            text = text_of(record.getMessage())
        except Exception:
            self.handleError(record)
        else:
            self._send_message(Log(record.levelno, record.name, text, trace and text_of(trace), _run_number.get()))


def _trace(error: BaseException) -> str:
    return text_of("".join(traceback.format_exception(error)))


def _seconds(value: object) -> float:
    """Return a time to wait; 0 for anything that is none."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if math.isfinite(seconds := float(value)):  # type: ignore[arg-type]
            return max(0.0, seconds)
    return 0.0
