"""The worker's end of the connection to one child: a state and a table of transitions.

The table alone says which messages a child may send in which state::

    STARTING --Warming--> WARMING --Ready--> READY <--(last answer taken)-- BUSY
       |  `-----------------Ready------------->|  `--------(a job)-------->|
       |--Refused         |--StartFailed       `--(End)--> LEAVING
       v                  v
      GONE <----------------- any state, when the process is lost or ended

A message that is not in the table breaks the protocol: its child runs foreign code and
is not trusted any more. :class:`~worker.isolation.children.Children` decides what
becomes of a child.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from tryon.processor import Info
from worker.isolation.errors import Loss, RaisedInChild
from worker.isolation.messages import (
    MAX_FILES,
    Answer,
    BadMessage,
    Cancel,
    Cancelled,
    Checkpoint,
    CleanUp,
    Committed,
    Done,
    End,
    Failed,
    FromChild,
    Inbox,
    Log,
    Preview,
    Raised,
    Ready,
    Refused,
    Report,
    Run,
    StartFailed,
    Usage,
    Warming,
    receive,
    send,
)
from worker.isolation.session_run import SessionRun

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class State(enum.Enum):
    """The state of a child, as far as the worker knows."""

    STARTING = "starting"
    """Asked of the fork server; its processor is not made."""
    WARMING = "warming"
    """Its processor's ``start()`` runs."""
    READY = "ready"
    """It waits for a job."""
    BUSY = "busy"
    """It has jobs, or answers that were not taken yet."""
    LEAVING = "leaving"
    """It was asked to end, so its end is no loss."""
    GONE = "gone"
    """It is out of the pool; its process is killed, or never came to be."""


class Action(enum.Enum):
    """The meaning of a child's message to the pool."""

    NOTE_MADE = "a processor was made"
    NOTE_READY = "a processor is ready"
    GIVE_UP = "there can be no processor"
    SETTLE = "a run has ended"
    HEAR = "a run says something"
    LOG = "a line for the log"
    IGNORE = "nothing"
    BREAK_OFF = "the child broke the protocol"


TRANSITIONS: Final[dict[tuple[State, type[FromChild]], tuple[Action, State]]] = {
    **{(state, Log): (Action.LOG, state) for state in State},
    **{(state, word): (Action.IGNORE, state) for state in State for word in (Report, Usage)},
    **{(State.BUSY, answer): (Action.SETTLE, State.BUSY) for answer in (Done, Failed, Raised, Cancelled)},
    **{(State.BUSY, word): (Action.HEAR, State.BUSY) for word in (Report, Preview, Usage, Checkpoint)},
    (State.STARTING, Warming): (Action.NOTE_MADE, State.WARMING),
    (State.STARTING, Ready): (Action.NOTE_READY, State.READY),
    (State.STARTING, Refused): (Action.GIVE_UP, State.STARTING),
    (State.STARTING, StartFailed): (Action.GIVE_UP, State.STARTING),
    (State.WARMING, Warming): (Action.NOTE_MADE, State.WARMING),
    (State.WARMING, Ready): (Action.NOTE_READY, State.READY),
    (State.WARMING, Refused): (Action.GIVE_UP, State.WARMING),
    (State.WARMING, StartFailed): (Action.GIVE_UP, State.WARMING),
}
"""Meaning of a message and the state after it, by the state before it."""


class ChildLink:
    """One child: its connection, its state, and the sessions that it runs."""

    __slots__ = (
        *("built", "disposable", "fresh_bytes", "generation", "hung_up", "idle_since", "info"),
        *("pid", "ready", "retiring", "runs", "state"),
        *("_files", "_inbox", "_socket", "_timer"),
    )

    def __init__(self, *, disposable: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.state = State.STARTING
        self.disposable = disposable
        """It is for one clean-up, and ends with it."""
        self.pid = 0
        """0 as long as there is no process, or none any more."""
        self.generation = 0
        """The number of the fork server that was asked for it."""
        self.built: asyncio.Future[None] = loop.create_future()
        """Done when the processor is made; an exception if it cannot be."""
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when the processor is ready; an exception if it never will be."""
        for future in (self.built, self.ready):
            future.add_done_callback(asyncio.Future.exception)  # an exception is seen, also when no session waits
        self.fresh_bytes = 0
        """Its memory when it became ready."""
        self.info: Info | None = None
        """Of its processor, once it is ready."""
        self.runs: dict[int, SessionRun] = {}
        """By their numbers."""
        self.retiring = False
        """It takes no other session, and ends when it has none any more."""
        self.hung_up = False
        """It has closed its connection: nothing more is read from it."""
        self.idle_since = loop.time()
        self._files: list[int] = []
        """Descriptors that came before the messages that they belong to."""
        self._socket: socket.socket | None = None
        self._inbox = Inbox(FromChild)
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<ChildLink {self.pid} {self.state.value}>"

    # -- the connection ----------------------------------------------------------------

    def connect(self, on_readable: Callable[[ChildLink], object]) -> socket.socket:
        """Open a new connection, for a new process; return the child's end of it."""
        self.disconnect()
        self.state = State.STARTING
        self.pid = 0
        self._inbox = Inbox(FromChild)
        self.retiring = self.hung_up = False
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, on_readable, self)
        return theirs

    def stop_reading(self) -> None:
        """Leave the connection open, but read no more from it."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)

    def disconnect(self) -> None:
        """Close the connection, and cancel the timer."""
        self.cancel_timer()
        if self._socket is not None:
            self.stop_reading()
            self._socket.close()
            self._socket = None
        self._close_files(len(self._files))

    def send(self, message: Run | CleanUp | Committed | Cancel | End, files: Sequence[int] = ()) -> bool:
        """Send a message; return False if the child does not take it any more."""
        if self._socket is None:
            return False
        try:
            send(self._socket, message, files)
        except OSError:
            return False
        return True

    def receive(self) -> list[FromChild] | None:
        """Return the messages that have arrived, as :func:`messages.receive` does."""
        assert self._socket is not None
        messages = receive(self._socket, self._inbox, self._files)
        if len(self._files) > MAX_FILES:
            raise BadMessage("it has too many descriptors")
        return messages

    # -- the state ---------------------------------------------------------------------

    def take(self, message: FromChild) -> Action:
        """Change the state as the table says, and return what the message means."""
        action, state = TRANSITIONS.get((self.state, type(message)), (Action.BREAK_OFF, self.state))
        if self.state is State.GONE and action is Action.BREAK_OFF:
            return Action.IGNORE
        self.state = state
        match action, message:
            case Action.NOTE_MADE, _:
                _set_done(self.built)
            case Action.NOTE_READY, Ready(info=info):
                self.info = info
                self.fresh_bytes = rss_bytes(self.pid)
                _set_done(self.built)
                _set_done(self.ready)
            case Action.LOG, Log():
                self._log(message)
            case Action.HEAR | Action.SETTLE, Report() | Preview() | Usage() | Checkpoint() | Answer() as words:
                return action if self._pass_on(words) else Action.BREAK_OFF
        return action

    def _pass_on(self, message: Report | Preview | Usage | Checkpoint | Answer) -> bool:
        """Give a message to its run; return False if the child cannot mean it."""
        count = len(message.outputs) if isinstance(message, Done) else 1 if isinstance(message, Preview) else 0
        files, self._files = self._files[:count], self._files[count:]
        run = self.runs.get(message.number)
        if run is None or len(files) < count:
            self._files[:0] = files
            # A run that was given up may still say something: but not answer.
            return run is None and not isinstance(message, Answer) and self._close_files(len(files))
        if isinstance(message, Answer):
            run.settle(message, files)
        else:
            run.take(message, files)
        return not run.flooded

    def _close_files(self, count: int) -> bool:
        for file in self._files[:count]:
            os.close(file)
        del self._files[:count]
        return True

    def begin(self, run: SessionRun) -> bool:
        """Give it a job; return False if it does not take it.

        Raises OSError: no memory or descriptor is left.
        """
        message = run.open()
        if not self.send(message, run.files):
            return False
        self.runs[run.number] = run
        self.state = State.BUSY
        return True

    @property
    def has_room(self) -> bool:
        """Return whether a busy child may have one more session."""
        return (
            self.state is State.BUSY
            and not self.retiring
            and not self.disposable
            and self.info is not None
            and len(self.runs) < self.info.concurrency
        )

    def settle_runs(self, loss: Loss) -> None:
        """End all its sessions that have no answer yet."""
        for run in self.runs.values():
            run.settle(loss)

    def take_run(self, run: SessionRun) -> None:
        """Forget a session that it has run."""
        self.runs.pop(run.number, None)
        if self.state is State.BUSY and not self.runs:
            self.state = State.READY

    def leave(self) -> bool:
        """Ask a ready child to end; return False if it must be killed instead."""
        if self.state is not State.READY or not self.send(End()):
            return False
        self.state = State.LEAVING
        return True

    def fail(self, error: Exception) -> None:
        """Fail the sessions that wait for it to become ready."""
        for future in (self.built, self.ready):
            if not future.done():
                future.set_exception(error)

    # -- its timer ---------------------------------------------------------------------

    @property
    def has_timer(self) -> bool:
        return self._timer is not None

    def set_timer(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call a function later; the timer before it, if any, is cancelled."""
        self.cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, call, *arguments)

    def cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _log(self, line: Log) -> None:
        run = self.runs.get(line.number) if line.number is not None else None
        context = run.context if run is not None else contextvars.copy_context()
        error = RaisedInChild(line.trace) if line.trace is not None else None
        context.run(logging.getLogger(line.logger).log, line.level, "%s", line.text, exc_info=error)


def rss_bytes(pid: int) -> int:
    """Return a process's resident memory (proc(5)); 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
