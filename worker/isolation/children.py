"""The children of a worker, from the request for a process to its end.

Plain functions, all of them on the event loop. What a child sends is judged by the
table in :mod:`~worker.isolation.child_link`; what its end means depends on its state::

    STARTING, WARMING   another process is asked for; three failures in a row are final
    READY               nothing is lost
    BUSY                its sessions fail, no other notices
    LEAVING             it was asked to
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator

from server.config.settings import ConfigError
from server.system.processes import exit_text, kill_family, kill_group
from worker.isolation.child_link import Action, ChildLink, State
from worker.isolation.errors import Loss, NotStarted, RaisedInChild, Reason
from worker.isolation.fork_server_link import ForkServer
from worker.isolation.idle import IdleChildren
from worker.isolation.messages import BadMessage, FromChild, LostFiles, Ready, Refused, StartFailed
from worker.isolation.startup import Startup
from worker.isolation.timing import Timing

log = logging.getLogger("tryon.worker")


class Children:
    """All children that are not gone. A :class:`ForkServerListener`."""

    def __init__(
        self,
        fork_server: ForkServer,
        startup: Startup,
        *,
        cpu_seconds: float | None,
        timing: Timing,
        closing: asyncio.Event,
    ) -> None:
        self._fork_server = fork_server
        self._startup = startup
        self._cpu_seconds = cpu_seconds
        self._timing = timing
        self._closing = closing
        self._all: set[ChildLink] = set()
        self.idle = IdleChildren(idle_seconds=timing.idle_seconds, let_go=self.let_go)

    def __repr__(self) -> str:
        return f"<Children {len(self._all)} idle={len(self.idle.all())}>"

    def __iter__(self) -> Iterator[ChildLink]:
        return iter(self._all)

    # -- more of them ------------------------------------------------------------------

    def add(self, *, disposable: bool = False) -> ChildLink:
        """Return a new child, whose process the fork server will give."""
        child = ChildLink(disposable=disposable)
        self._all.add(child)
        self._ask(child)
        return child

    def keep_one(self) -> None:
        """Add a child if there is none, so that the next session waits less."""
        if not self._all and not self._closing.is_set() and self._startup.error is None:
            self.idle.put(self.add())

    def _ask(self, child: ChildLink) -> None:
        """Ask for a process for the child; again, if it or the fork server has ended.

        The new connection tells the processes apart. Once no processor can be started,
        the child is given up: perhaps there is no fork server any more.
        """
        if self._startup.error is not None:
            self._give_up(child, self._startup.error)
            return
        try:
            with child.connect(self._readable) as theirs:
                self._fork_server.ask(child, theirs)
        except OSError as error:  # no memory or descriptor is left, or too many wait: for a moment only
            log.warning("A child could not be asked for: %s", error)
            child.set_timer(self._timing.restart_seconds, self._ask, child)

    def not_forked(self, child: ChildLink, reason: str) -> None:
        if child.state is State.GONE:
            return
        if not child.disposable and self._startup.may_retry():
            log.warning("A child could not be forked: %s", reason)
            child.set_timer(self._timing.restart_seconds, self._ask, child)
        else:
            self._give_up(child, OSError(reason))

    # -- what they send ----------------------------------------------------------------

    def _readable(self, child: ChildLink) -> bool:
        """Read once; return whether there may be more to read."""
        try:
            messages = child.receive()
        except ConnectionError:
            self._hung_up(child)
            return False
        except BadMessage as error:
            self.lose(child, "crashed", f"sent no message ({error})")
            return False
        except LostFiles as error:
            log.warning("A child could not be heard: %s", error)
            self.lose(child, "unheard", "could not be heard")
            return False
        if messages is None:
            return False
        for message in messages:
            self._take(child, message)
        return child.state is not State.GONE

    def _take(self, child: ChildLink, message: FromChild) -> None:
        match child.take(message), message:
            case Action.NOTE_MADE, _:
                self._startup.note_made()
            case Action.NOTE_READY, Ready() as ready:
                self._startup.note_ready(ready.info, ready.missing, resumes=ready.resumes, forgets=ready.forgets)
            case Action.GIVE_UP, Refused(reason=reason):
                self._give_up(child, ConfigError(reason))
            case Action.GIVE_UP, StartFailed(trace=trace):
                self._give_up(child, RaisedInChild(trace))
            case Action.BREAK_OFF, _:
                self.lose(child, "crashed", f"sent an unexpected {type(message).__name__} message")

    # -- how they end ------------------------------------------------------------------

    def refused(self, child: ChildLink) -> None:
        """Act on a child that did not take a job: what it said before counts first.

        One that has ended is left to the report of how; a stuck one is ended.
        """
        while child.state is not State.GONE and self._readable(child):
            pass
        if not child.retiring:
            self.end(child)

    def _hung_up(self, child: ChildLink) -> None:
        """Kill a child that has closed its connection.

        The fork server will report how it ended. It takes no session until then.
        """
        child.stop_reading()
        child.retiring = child.hung_up = True
        if not child.pid:
            return  # its fork server has ended, or will report at once what became of it
        kill_family(child.pid)
        if child.generation != self._fork_server.generation:
            self._over(child, None)
        elif not child.has_timer:
            child.set_timer(self._timing.status_seconds, self._over, child, None)

    def ended(self, pid: int, status: int) -> None:
        for child in [child for child in self._all if child.pid == pid]:
            kill_group(pid)  # the processes that it has left behind
            child.pid = 0  # the next process may have the same number
            while self._readable(child):
                pass  # its last messages
            self._over(child, status)

    def _over(self, child: ChildLink, status: int | None) -> None:
        """Act on a child's end.

        ``status`` is as ``exit_text`` has it.
        """
        if child.state is State.GONE:
            return
        if child.state is State.LEAVING:
            self.end(child)
        elif status == -signal.SIGXCPU:
            how = f"used more CPU time than TRYON_PROCESSOR_CPU_SECONDS allows ({self._cpu_seconds:g})"
            self.lose(child, "cpu", how)
        else:
            self.lose(child, "crashed", exit_text(status))

    def lose(self, child: ChildLink, reason: Reason, how: str) -> None:
        """Take a child out that has ended, or must, without having been asked to."""
        if child.runs:
            child.settle_runs(Loss(reason, how))
            self.end(child)
        elif child.ready.done():
            self.end(child)
            log.warning("An idle child %s", how)
        elif not child.disposable and self._startup.may_retry():
            if child.pid:
                kill_family(child.pid)
            self._ask(child)
        else:
            self._give_up(child, RaisedInChild(f"the process {how}"))

    def _give_up(self, child: ChildLink, error: Exception) -> None:
        """End a child that cannot have a processor.

        A disposable one says nothing of the others: there may be no room for its model
        beside theirs.
        """
        if child.disposable:
            log.warning("A child for a clean-up could not be started", exc_info=error)
            self.end(child)
        else:
            self.end(child, self._startup.give_up(error))

    def let_go(self, child: ChildLink) -> bool:
        """End an idle child; return whether it has a moment to close its processor."""
        leaving = not child.has_timer and child.leave()
        if leaving:
            child.set_timer(self._timing.close_seconds, self.end, child)
        else:
            self.end(child)
        return leaving

    def end(self, child: ChildLink, error: Exception | None = None) -> None:
        """Take a child out, and kill it with its process group.

        Sessions that wait for it to become ready fail with ``error``, or as not
        started; those that it still runs are handed back.
        """
        if child.state is State.GONE:
            return
        if left := [run for run in child.runs.values() if run.answer is None]:
            log.warning("A child was ended; %d of its sessions are handed back", len(left))
            child.settle_runs(Loss("evicted", "was ended"))
        self._all.discard(child)
        child.state = State.GONE
        child.disconnect()
        if child.pid:
            kill_family(child.pid)
        child.fail(error or NotStarted())

    # -- the fork server ---------------------------------------------------------------

    def fork_server_lost(self) -> None:
        """End idle children: another fork server's are fresher. The others work on.

        So does no process that was forked, but whose number was not told: it could not
        be killed, and nothing would notice its end.
        """
        for child in list(self._all):
            if not child.pid and child.ready.done():
                self.lose(child, "crashed", "lost its fork server before its number was known")
            elif not child.pid:
                child.disconnect()
            elif child.has_timer or child.hung_up:
                self._over(child, None)  # nothing will report how it ended
        for child in self.idle.all():
            if child.pid:
                self.end(child)

    def fork_server_started(self) -> None:
        """Ask the new fork server for the processes that the last one did not give."""
        for child in [child for child in self._all if not child.pid]:
            self._ask(child)
        self.keep_one()

    def fork_server_failed(self, error: Exception) -> None:
        """Fail every session that waits for a process, and those to come."""
        for child in [child for child in self._all if not child.pid]:
            self._give_up(child, error)
        self._startup.give_up(error)
