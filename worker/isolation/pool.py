"""A child process for every running session: what a processor does to its process, no
other session and no worker notices.

Between :mod:`~worker.tasks`, which has a job and awaits its output, and the processor,
which runs in a :mod:`~worker.isolation.child`. :class:`Children` is itself a processor
to ``tasks``. Children are forked by a :mod:`~worker.isolation.forkserver` (one per
worker, started with it) when they are needed, and used again when they have ended a
session in good order; one idle child is kept. Killed, with all that it has started, is
a child that ignores a cancel, has left threads at work, uses more memory or CPU time
than it may, or breaks the rules of the conversation.

Photos travel by file descriptor, as they do to the image processes. A job on a child
that is there costs 1 ms of both processes' CPU together; a child that must be forked
first is there 10 ms later.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final

from server.config.settings import Config, ConfigError
from server.telemetry import metrics
from tryon.processor import Job, Options, Output, ProcessorError, Report
from worker.isolation import child as inside
from worker.isolation.child_link import (
    REAP_SECONDS,
    Child,
    Loss,
    Reason,
    Running,
    Server,
    ended,
    reaped,
    rss_bytes,
    set_done,
)
from worker.isolation.messages import (
    Answer,
    Cancel,
    Cold,
    Done,
    End,
    Ended,
    Failed,
    Fork,
    Forked,
    FromChild,
    Inbox,
    Loaded,
    Log,
    Nonsense,
    NotForked,
    Raised,
    Ready,
    Refused,
    Setup,
    Warming,
    send,
)
from worker.isolation.messages import Report as Reported
from worker.processors import registry

log = logging.getLogger("tryon.worker")

STOP_SECONDS: Final = 0.3
"""How long a cancelled processor may take to clean up; then its process is killed."""

CLOSE_SECONDS: Final = 0.3
"""How long the idle children of a stopping worker may take for their processors'
``close()``.
"""

IDLE_SECONDS: Final = 2.0
"""After this long without work all children but one go: a full worker's next session
comes within milliseconds.
"""

WATCH_SECONDS: Final = 0.1
"""How often the memory of children that work is looked at: 15 us each. 0.4 GB can be
taken meanwhile.
"""

FORK_SECONDS: Final = 10.0
"""A fork server that has loaded the processor's code and then takes so long for a fork
hangs, and is killed.
"""

STATUS_SECONDS: Final = 1.0
"""How long to wait for the fork server to say how a child ended."""

RESTART_SECONDS: Final = 1.0
"""A fork server that lived shorter than this is started again only then."""

START_TRIES: Final = 3
"""So many children in a row may die before they are ready: chance kills one.

Then it is the processor.
"""

NICENESS: Final = 5
"""As for the image processes: a push must not wait for a processor."""

PROGRAM: Final = ("-P", "-m", "worker.isolation.forkserver")

_READ_BYTES: Final = 65536

LOSSES: Final[dict[Reason, str]] = {"crashed": "processor_crashed", "memory": "processor_crashed", "cpu": "timeout"}
"""Why a child was lost in the middle of a session, and what the session then fails as.
"""


class NotStarted(Exception):
    """No processor: it cannot be made, its ``start()`` failed, or no process could be
    started for it. Not the session's fault.
    """


class InChild(Exception):
    """An exception that was raised in a child; its text is the traceback there."""


class Children:
    """The processor of ``config``, run in children: as many at once as :meth:`run` is
    called.

    :meth:`start`, then :meth:`built`; :meth:`close` ends every process within a second.
    If this process is killed, the kernel and the fork server end them; a child of an
    earlier fork server sees it by its closed socket, when its code lets it look, and
    ends at its limit of CPU time at the latest. ``on_cold`` is called, once, when no
    processor can be started any more.
    """

    def __init__(
        self,
        config: Config,
        *,
        options: Options | None = None,
        on_cold: Callable[[Exception], None] = lambda error: None,
        niceness: int = NICENESS,
        idle_seconds: float = IDLE_SECONDS,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.name = config.processor
        self._setup = Setup(
            path=sys.path,
            processor=config.processor,
            options=dict(registry.options_of(config) if options is None else options),
            log_level=config.log_level,
            cpu_seconds=config.processor_cpu_seconds,
            niceness=niceness,
        )
        self._memory_bytes = config.processor_memory_bytes
        self._cpu_seconds = config.processor_cpu_seconds
        self._on_cold = on_cold
        self._idle_seconds = idle_seconds
        self._program = program
        self._server: Server | None = None
        self._restart: asyncio.Task[None] | None = None
        self._children: set[Child] = set()
        self._idle: list[Child] = []  # the last one worked last; the first ones are let go
        self._runs = 0
        self._stillborn = 0
        self._failed_servers = 0
        """That did not come to load the processor, one after the other; and that did
        not start at all.
        """
        self._built = False
        self._is_cold: NotStarted | None = None
        self._watcher: asyncio.TimerHandle | None = None
        self._trimmer: asyncio.TimerHandle | None = None
        self._closed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Children {self.name} processes={len(self._children)} idle={len(self._idle)}>"

    @property
    def pids(self) -> list[int]:
        """Of the children that are there."""
        return sorted(child.pid for child in self._children if child.pid)

    @property
    def server_pid(self) -> int | None:
        return None if self._server is None else self._server.process.pid

    def start(self) -> None:
        """Starts the fork server and asks it for the first child."""
        self._start_server()
        self._keep_one()

    async def built(self) -> None:
        """Wait until the first child has made its processor.

        Raises :class:`ConfigError` if there is none.
        """
        [child] = self._children
        await asyncio.wait({child.built})
        child.built.result()

    async def run(self, job: Job, report: Report) -> Output:
        """Make the picture, in a child. Ends within :data:`STOP_SECONDS` of a cancel.

        Raises what the processor raises: a :class:`ProcessorError` as it is, anything
        else as :class:`InChild`. A child that is lost: a :class:`ProcessorError` of
        :data:`LOSSES`. No child at all: :class:`NotStarted`.
        """
        if self._is_cold is not None:
            raise self._is_cold
        self._runs += 1
        run = Running(self._runs, job)
        child = self._take()
        try:
            await self._warm(child, report)
            self._begin(child, run)
            return await self._outcome(run, report)
        except asyncio.CancelledError:
            await self._stop(child)
            raise
        finally:
            run.close()
            self._release(child)

    async def close(self) -> None:
        """Ends all processes; the processors of idle children are closed before."""
        self._closed.set()
        for timer in (self._trimmer, self._watcher):
            if timer is not None:
                timer.cancel()
        closing = [child for child in self._idle if child.ready.done() and _told(child, End())]
        for child in closing:
            child.leaving = True
        loop = asyncio.get_running_loop()
        latest = loop.time() + CLOSE_SECONDS
        while any(child in self._children for child in closing) and loop.time() < latest:
            await asyncio.sleep(REAP_SECONDS)
        for child in list(self._children):
            self._end(child)
        if self._restart is not None:
            await asyncio.wait({self._restart})
        if self._server is not None:
            server, self._server = self._server, None
            loop.remove_reader(server.socket)
            server.socket.close()
            await reaped(server.process)

    # -- one session -------------------------------------------------------------------

    async def _warm(self, child: Child, report: Report) -> None:
        if not child.ready.done():
            await asyncio.wait({child.built})
            if child.warms and not child.ready.done():
                await report(None, "warming")
            await asyncio.wait({child.ready})
        child.ready.result()

    def _begin(self, child: Child, run: Running) -> None:
        child.run = run
        try:
            child.say(run.open(), run.files)
        except OSError as error:
            # No memory or descriptor left, or a child that ended this moment. Not its
            # fault; and not for ever.
            log.warning("Session %s could not be handed to a child: %s", run.job.session_id, error)
            self._end(child)
            raise ProcessorError("unavailable", requeue=True) from error
        if self._watcher is None:
            self._watch()

    async def _outcome(self, run: Running, report: Report) -> Output:
        while run.answer is None:
            await run.news.wait()
            run.news.clear()
            progress, run.progress = run.progress, None
            if progress is not None:
                await report(progress.progress, progress.stage, progress.eta_seconds)
        match run.answer:
            case Done(extension=extension):
                return Output(await run.result(), extension)
            case Failed(code=code, message=message, retryable=retryable, requeue=requeue):
                raise ProcessorError(code, message, retryable=retryable, requeue=requeue)
            case Raised(trace=trace):
                raise InChild(trace)
            case Loss(reason=reason, how=how):
                log.error("The process of session %s %s", run.job.session_id, how)
                metrics.processors_lost.labels(reason).inc()
                raise ProcessorError(LOSSES[reason])
            case other:
                raise AssertionError(other)

    async def _stop(self, child: Child) -> None:
        run = child.run
        if run is None or run.answer is not None or not _told(child, Cancel()):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                while run.answer is None:
                    await run.news.wait()
                    run.news.clear()
        if run.answer is None:
            log.warning("The processor of session %s ignores that it was cancelled", run.job.session_id)
            metrics.processors_lost.labels("stuck").inc()  # and it is not fit for another

    def _release(self, child: Child) -> None:
        """Its session is over: it waits for the next, or is replaced."""
        run, child.run = child.run, None
        if child in self._children:
            if run is not None and not self._fit(child, run):
                self._end(child)
            else:
                child.idle_since = asyncio.get_running_loop().time()
                self._idle.append(child)
                self._trim()
        self._keep_one()

    def _fit(self, child: Child, run: Running) -> bool:
        """Whether the next session may have it: one must not pay for what another has
        left.
        """
        if not isinstance(run.answer, Answer) or run.answer.left_over or child.server is not self._server:
            return False
        return self._memory_bytes is None or rss_bytes(child.pid) <= (child.fresh_bytes + self._memory_bytes) / 2

    def _take(self) -> Child:
        """The child that worked last, rather than one that still warms up, rather than
        a new one.
        """
        child = next(
            (each for each in reversed(self._idle) if each.ready.done()), self._idle[-1] if self._idle else None
        )
        if child is None:
            return self._fork()
        self._idle.remove(child)
        return child

    # -- children: plain functions, all of them on the loop ----------------------------

    def _keep_one(self) -> None:
        """Asks for a child if there is none, so that the next session need not wait for
        it.
        """
        if not self._children and not self._closed.is_set() and self._is_cold is None:
            self._idle.append(self._fork())

    def _fork(self) -> Child:
        child = Child()
        self._children.add(child)
        self._ask(child)
        return child

    def _ask(self, child: Child) -> None:
        """For its process; again, if it or the fork server has died.

        Its socket tells the two apart.
        """
        loop = asyncio.get_running_loop()
        if child.timer is not None:
            child.timer.cancel()
            child.timer = None
        if child.socket is not None:
            loop.remove_reader(child.socket)
            child.socket.close()
        child.socket, theirs = socket.socketpair()
        child.socket.setblocking(False)
        child.inbox = Inbox(FromChild)
        loop.add_reader(child.socket, self._child_speaks, child)
        with theirs:
            if self._server is not None:
                child.server = self._server
                self._server.asked.append(child)
                if self._server.loaded:
                    self._expect(child)
                with contextlib.suppress(OSError):  # it is gone, which it will tell by itself
                    send(self._server.socket, Fork(), [theirs.fileno()])

    def _child_speaks(self, child: Child) -> bool:
        """Whether it has, or may have, more to say."""
        assert child.socket is not None
        try:
            data = child.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._hung_up(child)
            return False
        try:
            for message in child.inbox.take(data):
                self._heard(child, message)
        except Nonsense as error:
            self._lost(child, "crashed", f"spoke nonsense ({error})")
        return child in self._children

    def _heard(self, child: Child, message: FromChild) -> None:
        match message:
            case Refused() | Cold() | Warming() | Ready() if child.ready.done():
                self._lost(child, "crashed", "said what it had said before")
            case Refused(reason=reason):
                self._cold(child, ConfigError(reason))
            case Cold(trace=trace):
                self._cold(child, InChild(trace))
            case Warming():
                child.warms = self._built = True
                set_done(child.built)
            case Ready():
                self._built = True
                self._stillborn = 0
                child.fresh_bytes = rss_bytes(child.pid)
                set_done(child.built)
                set_done(child.ready)
            case Log(level=level, logger=logger, text=text, trace=trace):
                context = child.run.context if child.run is not None else contextvars.copy_context()
                error = InChild(trace) if trace is not None else None
                context.run(logging.getLogger(logger).log, level, "%s", text, exc_info=error)
            case Reported():
                if child.run is not None:
                    child.run.progress = message
                    child.run.news.set()
            case Answer(number=number):
                if child.run is None or child.run.number != number:
                    self._lost(child, "crashed", "answered what nobody had asked")
                else:
                    child.run.settle(message)

    def _cold(self, child: Child, error: Exception) -> None:
        """It has no processor.

        That the first one cannot be made is a wrong setting; all else is no fault of
        who waits for it.
        """
        if not self._built:
            child.fail(error if isinstance(error, ConfigError) else self._unusable(error))
        else:
            self._go_cold(error)
        if self._is_cold is not None:
            child.fail(self._is_cold)
        self._end(child)

    def _go_cold(self, error: Exception) -> None:
        """From now on no session is begun here."""
        if self._is_cold is None and not self._closed.is_set():
            self._is_cold = NotStarted()
            self._is_cold.__cause__ = error
            self._on_cold(error)

    def _unusable(self, why: object) -> ConfigError:
        return registry.unusable(self.name, why)

    def _hung_up(self, child: Child) -> None:
        """It is gone, or as good as: why says the fork server, if it lives."""
        assert child.socket is not None
        asyncio.get_running_loop().remove_reader(child.socket)
        if not child.pid:
            return  # the fork server has died, or will tell at once what became of it
        inside.kill(child.pid)
        if child.server is not self._server:
            self._over(child, None)
        elif child.timer is None:
            child.timer = asyncio.get_running_loop().call_later(STATUS_SECONDS, self._over, child, None)

    def _over(self, child: Child, status: int | None) -> None:
        """It has ended, ``status`` as the fork server says."""
        if child not in self._children:
            return
        if child.leaving:
            self._end(child)
        elif status == -signal.SIGXCPU:
            self._lost(
                child, "cpu", f"used more CPU time than TRYON_PROCESSOR_CPU_SECONDS allows ({self._cpu_seconds:g})"
            )
        else:
            self._lost(child, "crashed", ended(status))

    def _lost(self, child: Child, reason: Reason, how: str) -> None:
        """Whoever was with it fails, nobody else notices."""
        if child.run is not None:
            child.run.settle(Loss(reason, how))
            self._end(child)
        elif child.ready.done():
            self._end(child)
            log.warning("An idle child %s", how)
        elif self._stillborn < START_TRIES - 1 and not self._closed.is_set():
            self._stillborn += 1
            child.pid = 0
            self._ask(child)
        else:
            self._cold(child, InChild(f"the process {how}"))

    def _end(self, child: Child) -> None:
        """Takes it out of everything, and kills it with all that it has started."""
        if child not in self._children:
            return
        self._children.remove(child)
        if child in self._idle:
            self._idle.remove(child)
        if child.timer is not None:
            child.timer.cancel()
        assert child.socket is not None
        asyncio.get_running_loop().remove_reader(child.socket)
        child.socket.close()
        if child.pid:
            inside.kill(child.pid)
        child.fail(NotStarted())

    def _trim(self) -> None:
        """Lets go who has been idle for too long, but for the last one."""
        loop = asyncio.get_running_loop()
        if self._trimmer is not None:
            self._trimmer.cancel()
            self._trimmer = None
        while len(self._idle) > 1:
            child = self._idle[0]
            due = child.idle_since + self._idle_seconds
            if due > loop.time():
                self._trimmer = loop.call_at(due, self._trim)
                return
            self._idle.remove(child)
            if child.ready.done() and child.timer is None and _told(child, End()):
                child.leaving = True
                child.timer = loop.call_later(CLOSE_SECONDS, self._end, child)
            else:
                self._end(child)

    def _watch(self) -> None:
        """Memory is judged by what is there: address space is no measure, a GPU's
        driver takes terabytes of it.
        """
        self._watcher = None
        at_work = [child for child in self._children if child.run is not None]
        if self._memory_bytes is None or sys.platform != "linux" or not at_work:
            return
        for child in at_work:
            if (rss := rss_bytes(child.pid)) > self._memory_bytes:
                how = f"had {rss} bytes of memory, more than TRYON_PROCESSOR_MEMORY_BYTES allows ({self._memory_bytes})"
                self._lost(child, "memory", how)
        self._watcher = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._watch)

    # -- the fork server ---------------------------------------------------------------

    def _start_server(self) -> None:
        server = self._server = Server(self._program, self._setup)
        asyncio.get_running_loop().add_reader(server.socket, self._server_speaks, server)

    def _server_speaks(self, server: Server) -> None:
        try:
            data = server.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._server_gone(server)
            return
        for message in server.inbox.take(data):
            match message:
                case Loaded():
                    server.loaded = True
                    for child in server.asked:
                        self._expect(child)
                case Refused(reason=reason):
                    server.refusal = reason
                case Forked(pid=pid):
                    self._forked(server.asked.popleft(), pid)
                case NotForked(reason=reason):
                    self._not_forked(server.asked.popleft(), reason)
                case Ended(pid=pid, status=status):
                    for child in [child for child in self._children if child.pid == pid]:
                        inside.kill_group(pid)  # what it has left behind
                        child.pid = 0  # the next process may be called so
                        while self._child_speaks(child):
                            pass  # its last words
                        self._over(child, status)

    def _expect(self, child: Child) -> None:
        assert child.server is not None
        child.timer = asyncio.get_running_loop().call_later(FORK_SECONDS, child.server.process.kill)

    def _forked(self, child: Child, pid: int) -> None:
        if child.timer is not None:
            child.timer.cancel()
            child.timer = None
        if child in self._children:
            child.pid = pid
        else:
            inside.kill(pid)  # nobody wants it any more

    def _not_forked(self, child: Child, reason: str) -> None:
        """No process or memory is left, perhaps for a moment only."""
        if child not in self._children:
            return
        self._stillborn += 1
        if self._stillborn >= START_TRIES:
            self._cold(child, OSError(reason))
            return
        log.warning("A child could not be forked: %s", reason)
        if child.timer is not None:
            child.timer.cancel()
        child.timer = asyncio.get_running_loop().call_later(RESTART_SECONDS, self._ask, child)

    def _server_gone(self, server: Server) -> None:
        """Its children work on; those it has not forked another one does."""
        asyncio.get_running_loop().remove_reader(server.socket)
        server.socket.close()
        server.process.kill()
        self._server = None
        for child in list(self._children):
            if child.timer is not None and child.server is server and child.pid:
                self._over(child, None)  # nobody will say how it ended
        for child in [child for child in self._idle if child.pid]:
            self._end(child)
        if not self._closed.is_set():
            self._restart = asyncio.create_task(self._start_another(server), name="fork server")

    async def _start_another(self, server: Server) -> None:
        """One that was loaded is replaced, however often; one that cannot be is tried a
        few times, then the worker stops: it would take sessions and never run them.
        """
        await reaped(server.process)
        if self._closed.is_set():
            return
        if server.refusal is not None:
            self._give_up(ConfigError(server.refusal))
            return
        how = ended(server.process.returncode)
        if not self._built:
            self._give_up(self._unusable(f"the process that loads it {how}"))
            return
        self._failed_servers = 0 if server.loaded else self._failed_servers + 1
        why: Exception = InChild(f"The fork server {how}")
        begin = server.started + RESTART_SECONDS
        while self._failed_servers < START_TRIES:
            log.warning("%s; starting another", why)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(begin):
                    await self._closed.wait()
                    return
            try:
                self._start_server()
            except OSError as error:  # no memory, process or descriptor left, perhaps for a moment only
                self._failed_servers += 1
                why, begin = error, asyncio.get_running_loop().time() + RESTART_SECONDS
                continue
            for child in self._unborn():
                self._ask(child)
            self._keep_one()
            return
        self._give_up(why)

    def _give_up(self, why: Exception) -> None:
        for child in self._unborn():
            self._cold(child, why)
        if self._built:
            self._go_cold(why)

    def _unborn(self) -> list[Child]:
        return [child for child in self._children if not child.pid]


def _told(child: Child, message: Cancel | End) -> bool:
    try:
        child.say(message)
    except OSError:
        return False
    return True
