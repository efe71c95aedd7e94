"""The process pool: every session runs in a child process.

So nothing a processor does to its process harms another session or the worker.

:class:`ProcessPool` stands between :mod:`~worker.tasks`, which has a job and awaits its
output, and the processor, which runs in a child. To ``tasks`` the pool is itself a
processor. Its parts, each with one kind of state::

    worker process                                other processes

    ProcessPool         sessions on children
      Children          the set of children       child.py (a session, or several)
        IdleChildren    those without a session       ^
        ChildLink       one child: its state  <-------+
          SessionRun    one of its sessions
      ForkServer        keeps one running     <---> forkserver.py (forks children)
      Startup           failures to start
      MemoryWatch       memory of children at work

How it works:

1. The fork server starts with the worker and imports the processor's module, once. It
   makes no processor. A fork then costs 10 ms and shares the module's memory.
2. A session takes a child at work whose processor may run one more (``concurrency``)
   and cancels none, an idle child, one that is ready rather than one that warms up, or
   a new one. It waits until the child's processor is ready (``warming``), hands the
   photos over as descriptors of memory files, and passes on what the run says until
   there is an answer. Outputs and previews come as descriptors of the child's own
   memory files.
3. A child that has answered, has no thread left at work, holds little memory and comes
   from the present fork server is idle again. Any other one is killed. One idle child
   is kept; more of them go after :attr:`~worker.isolation.timing.Timing.idle_seconds`.
4. A cancel is sent to the child. If there is no answer in 0.3 s, the child is killed
   with its process group: the next session gets another one, and pays for its start.
   Other sessions that it ran are handed back to the queue.
5. A child's end is learned twice, in any order: its socket closes, and the fork server,
   its parent, reports the exit status. The status says whether it crashed or used up
   its CPU time; if the fork server is silent or gone, the closed socket is enough. The
   messages that the child had sent before count first: an answer that was sent is one.
6. If the fork server ends, its children go on with their sessions, and another one is
   started. If this process ends, the fork server kills its children and itself; if both
   are killed, a child notices its closed socket, or meets its limit of CPU time.
7. Work upstream is cancelled and forgotten by an idle child: with a model in it, a GPU
   may have no room for another one. Without an idle child a new one does it, which then
   ends, and whose failure to start is that clean-up's alone.
8. Failures before a processor is ready are
   :class:`~worker.isolation.startup.Startup`'s: no session is blamed for them. A wrong
   setting stops the worker at its start, the third failure in a row stops it later, by
   ``on_start_error``.

All state changes are plain functions on the event loop: nothing is awaited between a
look at a state and the change that relies on it. The one exception is named where it
stands: between a child's readiness and its job, the child may end.

A job on a child that is there costs 1 ms of both processes' CPU together; a child that
must be forked first is there 10 ms later.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, TypeAlias

from server.config.settings import Config
from server.config.storage_url import credential_names
from tryon.processor import Checkpoint, Info, Job, Options, Output, ProcessorError, Reference, Report
from tryon.processor.validation import checkpoint_text
from worker.isolation import temporary
from worker.isolation.child_link import ChildLink, State
from worker.isolation.children import Children
from worker.isolation.confinement import hidden_paths
from worker.isolation.errors import NotStarted
from worker.isolation.fork_server_link import PROGRAM, REAP_SECONDS, ForkServer
from worker.isolation.messages import Answer, Cancel, CleanUp, Setup
from worker.isolation.session_run import Cleaning, SessionRun, Work
from worker.isolation.silence import Silence
from worker.isolation.startup import Startup
from worker.isolation.timing import Timing
from worker.isolation.watch import MemoryWatch
from worker.processors import registry

log = logging.getLogger("tryon.worker")

Starting: TypeAlias = Callable[[asyncio.Future[None]], Awaitable[float]]
"""Waits for a processor; returns its job's deadline from then on, in Unix seconds."""

RETRY_SECONDS: Final = 1.0
"""Time after which a session that found no memory or descriptor is tried again."""

NICENESS: Final = 5
"""Niceness, as of the image processes: a push must not wait for a processor."""


class ProcessPool:
    """The configured processor, run in as many children as :meth:`run` has calls.

    ``processor``: its name; None stands for the first of ``TRYON_PROCESSOR``.
    :meth:`start`, then :meth:`built`; :meth:`close` ends every process within a second.
    ``on_start_error`` is called once, when no processor can be started any more.
    """

    def __init__(
        self,
        config: Config,
        *,
        processor: str | None = None,
        options: Options | None = None,
        on_start_error: Callable[[Exception], None] = lambda error: None,
        niceness: int = NICENESS,
        timing: Timing | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.name = processor or config.processors[0]
        self._timing = timing = timing or Timing()
        setup = Setup(
            path=sys.path,
            processor=self.name,
            options=dict(registry.options_of(config, self.name) if options is None else options),
            log_level=config.log_level,
            cpu_seconds=config.processor_cpu_seconds,
            niceness=niceness,
            hidden=hidden_paths(config),
            withheld=[
                *registry.secrets_of_others(config, self.name),
                *credential_names(config.storage_url, os.environ),
            ],
            temporary=temporary.prefix(),
        )
        self._temporary = setup.temporary
        self._closing = asyncio.Event()
        self._startup = Startup(self.name, on_error=on_start_error, closing=self._closing)
        self._fork_server = ForkServer(program, setup, self._startup, timing=timing, closing=self._closing)
        self._children = Children(
            self._fork_server,
            self._startup,
            cpu_seconds=config.processor_cpu_seconds,
            timing=timing,
            closing=self._closing,
        )
        self._watch = MemoryWatch(
            config.processor_memory_bytes,
            watch_seconds=timing.watch_seconds,
            children=self._children,
            lose=self._children.lose,
        )
        self._runs = 0

    def __repr__(self) -> str:
        return f"<ProcessPool {self.name} {self._children!r}>"

    @property
    def pids(self) -> list[int]:
        """The process ids of the children that have a process."""
        return sorted(child.pid for child in self._children if child.pid)

    @property
    def fork_server_pid(self) -> int | None:
        return self._fork_server.pid

    @property
    def resumes(self) -> bool:
        """Whether the processor can go on from a checkpoint; known once described."""
        return self._startup.resumes

    @property
    def forgets(self) -> bool:
        """Whether the processor can delete what its upstream keeps."""
        return self._startup.forgets

    def start(self) -> None:
        """Start the fork server and ask it for the first child. Raises OSError."""
        self._fork_server.start(self._children)
        self._children.keep_one()

    async def built(self) -> None:
        """Wait until a child has made its processor.

        Raises :class:`ConfigError` if it cannot be made.
        """
        await asyncio.shield(self._startup.made)

    async def described(self) -> Info:
        """Wait until a processor is ready; return what it says of itself.

        Raises what :meth:`built` does, or
        :class:`~worker.isolation.errors.NotStarted`.
        """
        if self._startup.error is not None:
            raise self._startup.error
        return await asyncio.shield(self._startup.info)

    async def run(self, job: Job, report: Report, starting: Starting | None = None) -> tuple[Output, ...]:
        """Make the outputs, in a child; end within 0.3 s of a cancel.

        The inputs' paths are those of memory files. ``starting`` waits for the child's
        processor, if it is not ready, and returns the job's deadline then (Unix
        seconds).

        Raises what the processor raises: a :class:`ProcessorError` as it is, anything
        else as :class:`~worker.isolation.errors.RaisedInChild`. If the child is lost: a
        :class:`ProcessorError` with a code of
        :data:`~worker.isolation.errors.LOSS_CODES`. If there can be no child:
        :class:`~worker.isolation.errors.NotStarted`; if this pool ended it for another
        reason than this session: :class:`~worker.isolation.errors.Evicted`.
        """
        return await self._run(Work(job), report, starting)

    async def resume(
        self, job: Job, checkpoint: Checkpoint, report: Report, starting: Starting | None = None
    ) -> tuple[Output, ...]:
        """Go on from a checkpoint, as :meth:`run`; anew if the processor cannot."""
        return await self._run(Work(job, checkpoint_text(checkpoint)), report, starting)

    async def cancel(self, job: Reference, checkpoint: Checkpoint) -> None:
        """Stop work upstream, in an idle or a new child; it has 30 s once it begins.

        Raises as :meth:`run`, and TimeoutError.
        """
        await self._clean_up("cancel", job, checkpoint)

    async def forget(self, job: Reference, checkpoint: Checkpoint) -> None:
        """Delete what an upstream keeps, as :meth:`cancel`."""
        await self._clean_up("forget", job, checkpoint)

    async def _run(self, order: Work, report: Report, starting: Starting | None) -> tuple[Output, ...]:
        run = self._new_run(order)
        while (child := await self._begun(run, order, report, starting)) is None:
            pass  # the child ended at that moment: another one
        try:
            return await _outcome(child, run, report, self._timing.stop_seconds)
        finally:
            run.close()
            self._release(child, run)

    async def _begun(self, run: SessionRun, order: Work, report: Report, starting: Starting | None) -> ChildLink | None:
        """Return a child that has begun the run; None if the chosen one has ended."""
        child = await _chosen(self._children, self._fork_server)
        try:
            if starting is not None and not child.ready.done():
                run.order = order.until(await starting(child.ready))
            await _wait_ready(child, report)
            return child if self._begin(child, run) else None
        finally:
            if run.number not in child.runs:
                run.close()
                self._release(child, run)

    async def _clean_up(self, method: Literal["cancel", "forget"], job: Reference, checkpoint: Checkpoint) -> None:
        message = CleanUp(number=0, method=method, key=job.key, checkpoint=checkpoint_text(checkpoint))
        run = self._new_run(Cleaning(message))
        child = self._children.idle.take() or self._children.add(disposable=True)
        try:
            await _wait_ready(child, Silence())
            async with asyncio.timeout(self._timing.clean_up_seconds):
                if not self._begin(child, run):
                    raise NotStarted
                await _outcome(child, run, Silence(), self._timing.stop_seconds)
        finally:
            run.close()
            self._release(child, run)

    def _new_run(self, order: Work | Cleaning) -> SessionRun:
        if self._startup.error is not None:
            raise self._startup.error
        self._runs += 1
        return SessionRun(self._runs, order)

    async def close(self) -> None:
        """End all processes; the processors of idle children are closed before."""
        self._closing.set()
        self._children.idle.close()
        self._watch.close()
        leaving = [child for child in self._children.idle.all() if self._children.let_go(child)]
        while any(child.state is not State.GONE for child in leaving):  # each has a timer
            await asyncio.sleep(REAP_SECONDS)
        for child in list(self._children):
            self._children.end(child)
        await self._fork_server.close()
        await asyncio.to_thread(temporary.remove_all, self._temporary)

    def _begin(self, child: ChildLink, run: SessionRun) -> bool:
        """Give a child the run; return False if it does not take it."""
        try:
            begun = child.begin(run)
        except OSError as error:
            # No memory or descriptor is left: no fault of the session's, nor for ever.
            log.warning("Session %s could not be handed to a child: %s", run.order.name, error)
            raise ProcessorError("unavailable", retry_after=RETRY_SECONDS) from error
        if begun:
            self._watch.start()
        else:
            self._children.refused(child)
        return begun

    def _release(self, child: ChildLink, run: SessionRun) -> None:
        """Let a child wait for the next session, or replace it."""
        begun = run.number in child.runs
        child.take_run(run)
        if child.state is not State.GONE:
            fresh = child.generation == self._fork_server.generation and self._watch.fits_next(child)
            child.retiring |= begun and not (fresh and _left_nothing(run))
            if begun and run.answer is None:  # it is stuck, and what else it runs with it
                self._children.end(child)
            elif not child.runs:
                if child.retiring or child.disposable:
                    self._children.end(child)
                else:
                    self._children.idle.put(child)
        self._children.keep_one()


async def _wait_ready(child: ChildLink, report: Report) -> None:
    """Wait until the child's processor is ready; report that it is not, if so."""
    if not child.ready.done():
        await asyncio.wait({child.built})
        if not child.ready.done():
            await report(None, "warming")
        await asyncio.wait({child.ready})
    child.ready.result()


async def _outcome(child: ChildLink, run: SessionRun, report: Report, stop_seconds: float) -> tuple[Output, ...]:
    """Return the run's outputs; stop it in its child if it is left before its answer.

    A run that stops in time takes no neighbour on its child along.
    """
    try:
        return await run.outcome(report, child.send)
    except BaseException:
        if run.number in child.runs and run.answer is None and child.send(Cancel(run.number)):
            await run.wait_for_answer(stop_seconds)
        await run.pass_usage(report)  # what it has cost until its end
        raise


def _left_nothing(run: SessionRun) -> bool:
    """Return whether no session after this one would pay for its remains."""
    return isinstance(run.answer, Answer) and not run.answer.left_over


async def _chosen(children: Children, fork_server: ForkServer) -> ChildLink:
    """Return a child for a session: one at work with room, an idle one, or a new one.

    A child in which a run is being cancelled may be about to end: it is waited for, as
    beside it there may be no room for another model.
    """
    while True:
        roomy = [child for child in children if child.has_room and child.generation == fork_server.generation]
        child = next((child for child in roomy if _ending(child) is None), None) or children.idle.take()
        if child is not None:
            return child
        if not roomy:
            return children.add()
        if (ending := _ending(roomy[0])) is not None:
            await ending.wait()


def _ending(child: ChildLink) -> asyncio.Event | None:
    """Return an event of a run that is being cancelled, or None.

    When it is set, the child is free of the run, or is ended.
    """
    return next((run.ending for run in child.runs.values() if run.ending is not None), None)
