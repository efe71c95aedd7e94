"""The worker's fork server: started, asked for children, and restarted.

:class:`ForkServerLink` is the connection to one fork-server process,
:class:`ForkServer` keeps one running. What it learns about children it passes on to a
:class:`ForkServerListener`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from server.config.settings import SECRET_VARIABLES, ConfigError
from server.system.processes import exit_text, kill_family, python, python_environment
from worker.isolation.child_link import ChildLink, State
from worker.isolation.errors import RaisedInChild
from worker.isolation.messages import (
    Ended,
    Fork,
    Forked,
    FromServer,
    Inbox,
    Loaded,
    NotForked,
    Refused,
    Setup,
    receive,
    send,
)
from worker.isolation.startup import START_TRIES, Startup
from worker.isolation.timing import Timing
from worker.processors.registry import unusable

log = logging.getLogger("tryon.worker")

PROGRAM: Final = ("-m", "worker.isolation.forkserver")

REAP_SECONDS: Final = 0.01
"""Between two looks at a process that is ending."""
REAP_TRIES: Final = 50
"""Looks at a process that is ending; then it is killed."""


class ForkServerListener(Protocol):
    """Callbacks for reports of the fork server: plain functions on the event loop."""

    def not_forked(self, child: ChildLink, reason: str) -> None:
        """Handle a failed fork: no process or memory is left."""

    def ended(self, pid: int, status: int) -> None:
        """Handle a child's end; ``status`` is an exit status or minus a signal."""

    def fork_server_lost(self) -> None:
        """Handle the end of the fork server: it answers and reports no more."""

    def fork_server_started(self) -> None:
        """Handle the start of another one: children can be asked for again."""

    def fork_server_failed(self, error: Exception) -> None:
        """Handle the last failure: no fork server can be started any more."""


class ForkServerLink:
    """One fork-server process, its connection, and the children asked of it."""

    __slots__ = ("_asked", "_fork_seconds", "_inbox", "_socket", "loaded", "number", "process", "refusal", "started_at")

    def __init__(self, number: int, program: Sequence[str], setup: Setup, *, fork_seconds: float) -> None:
        """Start the process.

        Raises OSError: no memory, process or descriptor is left.
        """
        self.number = number
        self.loaded = False
        """It has the processor's code, so a fork takes milliseconds."""
        self.refusal: str | None = None
        """Why the processor's code cannot be loaded."""
        self.started_at = asyncio.get_running_loop().time()
        self._fork_seconds = fork_seconds
        self._asked: deque[tuple[ChildLink, list[asyncio.TimerHandle]]] = deque()
        self._inbox = Inbox(FromServer)
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            try:
                self.process = subprocess.Popen(
                    python(*program, str(os.getpid())),
                    stdin=theirs.fileno(),
                    env=_environment(setup.withheld),
                    start_new_session=True,
                )
                send(self._socket, setup)
            except OSError:
                self._socket.close()
                raise

    def __repr__(self) -> str:
        return f"<ForkServerLink {self.process.pid} asked={len(self._asked)}>"

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, child: ChildLink, theirs: socket.socket) -> None:
        """Ask for a process for the child; ``theirs`` is its end of the connection.

        Raises BlockingIOError: more requests wait than fit into the connection.
        """
        child.generation = self.number
        try:
            send(self._socket, Fork(), [theirs.fileno()])
        except BlockingIOError:
            raise
        except OSError:
            pass  # it has ended, which is noticed by itself
        self._asked.append((child, []))
        if self.loaded:
            self._expect_answers()

    def answered(self) -> ChildLink:
        """Return the child that the oldest request was for."""
        child, timers = self._asked.popleft()
        for timer in timers:
            timer.cancel()
        return child

    def note_loaded(self) -> None:
        """Expect an answer to each request in time from now on."""
        self.loaded = True
        self._expect_answers()

    def _expect_answers(self) -> None:
        for _, timers in self._asked:
            if not timers:
                timers.append(asyncio.get_running_loop().call_later(self._fork_seconds, self.process.kill))

    def receive(self) -> list[FromServer] | None:
        """Return the messages that have arrived, as :func:`messages.receive` does."""
        return receive(self._socket, self._inbox)

    def disconnect(self) -> None:
        """Close the connection: the process ends its children and itself."""
        while self._asked:
            self.answered()
        self._socket.close()


class ForkServer:
    """Keeps one fork server running.

    It replaces one that had loaded the processor's code, however often; one that cannot
    load it is tried a few times.
    """

    def __init__(
        self, program: Sequence[str], setup: Setup, startup: Startup, *, timing: Timing, closing: asyncio.Event
    ) -> None:
        self._program = program
        self._setup = setup
        self._startup = startup
        self._timing = timing
        self._closing = closing
        self._listener: ForkServerListener | None = None
        self._link: ForkServerLink | None = None
        self._starts = 0
        self._failures = 0
        """Fork servers in a row that did not start, or did not load the code."""
        self._restart: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<ForkServer {self._link!r} starts={self._starts}>"

    @property
    def pid(self) -> int | None:
        return None if self._link is None else self._link.process.pid

    @property
    def generation(self) -> int:
        """The number of the fork server that runs now; 0 if none does."""
        return 0 if self._link is None else self._link.number

    def start(self, listener: ForkServerListener) -> None:
        """Start the first fork server. Raises OSError."""
        self._listener = listener
        self._start_link()

    def ask(self, child: ChildLink, theirs: socket.socket) -> None:
        """Ask for a process for the child, if a fork server runs."""
        if self._link is not None:
            self._link.ask(child, theirs)

    async def close(self) -> None:
        """End the fork server, and with it every child that is left."""
        if self._restart is not None:
            await asyncio.wait({self._restart})
        if self._link is not None:
            link, self._link = self._link, None
            asyncio.get_running_loop().remove_reader(link)
            link.disconnect()
            await _reaped(link.process)

    def _start_link(self) -> None:
        link = ForkServerLink(self._starts + 1, self._program, self._setup, fork_seconds=self._timing.fork_seconds)
        self._starts += 1
        self._link = link
        asyncio.get_running_loop().add_reader(link, self._readable, link)

    def _readable(self, link: ForkServerLink) -> None:
        try:
            messages = link.receive()
        except ConnectionError:
            self._lost(link)
            return
        assert self._listener is not None
        for message in messages or ():
            match message:
                case Loaded():
                    link.note_loaded()
                case Refused(reason=reason):
                    link.refusal = reason
                case Forked(pid=pid):
                    self._forked(link.answered(), pid)
                case NotForked(reason=reason):
                    self._listener.not_forked(link.answered(), reason)
                case Ended(pid=pid, status=status):
                    self._listener.ended(pid, status)

    def _forked(self, child: ChildLink, pid: int) -> None:
        if child.state is State.GONE:
            kill_family(pid)  # it is not wanted any more
        else:
            child.pid = pid

    def _lost(self, link: ForkServerLink) -> None:
        asyncio.get_running_loop().remove_reader(link)
        link.disconnect()
        link.process.kill()
        self._link = None
        assert self._listener is not None
        self._listener.fork_server_lost()
        if not self._closing.is_set():
            self._restart = asyncio.create_task(self._start_another(link), name="fork server")

    async def _start_another(self, link: ForkServerLink) -> None:
        """Replace a fork server that has ended, or report that none can be started.

        A worker without one would take sessions and never run them.
        """
        await _reaped(link.process)
        if self._closing.is_set():
            return
        assert self._listener is not None
        if link.refusal is not None:
            self._listener.fork_server_failed(ConfigError(link.refusal))
            return
        how = exit_text(link.process.returncode)
        if not self._startup.built and not link.loaded:
            self._listener.fork_server_failed(unusable(self._setup.processor, f"the process that loads it {how}"))
            return
        self._failures = 0 if link.loaded and self._startup.built else self._failures + 1
        reason: Exception = RaisedInChild(f"The fork server {how}")
        start_at = link.started_at + self._timing.restart_seconds
        while self._failures < START_TRIES:
            log.warning("%s; starting another", reason)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(start_at):
                    await self._closing.wait()
                    return
            try:
                self._start_link()
            except OSError as error:  # no memory, process or descriptor is left, perhaps for a moment only
                self._failures += 1
                reason, start_at = error, asyncio.get_running_loop().time() + self._timing.restart_seconds
                continue
            self._listener.fork_server_started()
            return
        self._listener.fork_server_failed(reason)


async def _reaped(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has ended; kill it after half a second."""
    for _ in range(REAP_TRIES):
        if process.poll() is not None:
            return
        await asyncio.sleep(REAP_SECONDS)
    process.kill()
    process.wait()


def _environment(withheld: Sequence[str]) -> dict[str, str]:
    """Return the worker's environment without secrets that are not the processor's."""
    secret = {*SECRET_VARIABLES, *withheld}
    return python_environment({name: text for name, text in os.environ.items() if name not in secret})
