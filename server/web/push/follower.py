"""The rule of following: what one client may be given next, and when to wait for more.

A client is given its session's transitions in order, each once. The rule needs one
number, the last ``seq`` that the client was given, and no await: the decision and the
delivery are one step, so nothing can come between them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import msgspec

from server.domain.bus_message import GONE, PROGRESS, TERMINAL
from tryon.protocol.states import GoneReason


class _End(msgspec.Struct):
    status: str


class Follower(ABC):
    """One client that follows one session.

    A transport implements how a frame reaches the client; no method may block.

    ``seq`` is the last transition that the client was given. It is None, and frames are
    held, until the hub releases the follower, and again while the client waits for a
    new snapshot. ``admitted``: the follower has been released once, so its client may
    see the session. ``slot`` and ``joined_at`` belong to the ping wheel.
    """

    alone: ClassVar[bool] = True
    """Whether the client follows this session alone, over a connection of its own."""

    __slots__ = ("_held", "admitted", "joined_at", "seq", "session_id", "slot")

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.joined_at = 0.0
        self.seq: int | None = None
        self.admitted = False
        self.slot = 0
        self._held: list[tuple[int, int, bytes]] | None = None

    @abstractmethod
    def event(self, frame: bytes) -> None:
        """Deliver one transition; if that fails, the client must be disconnected."""

    @abstractmethod
    def progress(self, frame: bytes) -> None:
        """Deliver progress; the next one may replace it before it is sent."""

    @abstractmethod
    def ping(self, frame: bytes) -> None:
        """Send a ping for the client's watchdog; it may be dropped."""

    def overdue(self) -> None:  # noqa: B027 - most transports wait for no answer
        """Act on a ping that was not answered within :data:`~.pings.ANSWER_SHARE`."""

    @abstractmethod
    def end(self, status: str) -> None:
        """Finish: the terminal event was delivered and nothing follows."""

    @abstractmethod
    def gone(self, reason: GoneReason) -> None:
        """Finish: the session was erased."""

    @abstractmethod
    def too_old(self, retry_after_ms: int) -> None:
        """Ask the client to reconnect: this connection has reached its maximum age."""

    @abstractmethod
    def drain(self, retry_after_ms: int) -> None:
        """Ask the client to reconnect after this time: the server is stopping."""

    def broken(self, retry_after_ms: int) -> None:
        """Ask the client to reconnect: a delivery failed, so it may miss an event."""
        self.too_old(retry_after_ms)

    @property
    def holds_end(self) -> bool:
        """Whether the terminal event is among the held frames."""
        return any(kind == TERMINAL for kind, _, _ in self._held or ())

    def offer(self, kind: int, seq: int, frame: bytes) -> bool:
        """Take one frame: deliver, hold or drop it; return False if there is a hole.

        False means that transitions before this one are missing, so the caller reads
        the database. This is the whole rule of "no gap, no repeat, no step back".
        """
        if kind == GONE and self.admitted:
            self.gone(GoneReason(msgspec.json.decode(frame)["reason"]))
            return True
        if self.seq is None:
            if self._held is None:
                self._held = []
            if kind == PROGRESS and self._held and self._held[-1][0] == PROGRESS:
                self._held[-1] = (kind, seq, frame)
            else:
                self._held.append((kind, seq, frame))
            return True
        if kind == PROGRESS:
            if seq == self.seq:
                self.progress(frame)  # may find the connection lost, and then clear the cursor
                return True
            return seq < self.seq
        if seq <= self.seq:
            return True
        if seq != self.seq + 1:
            return False
        self.seq = seq
        self.event(frame)
        if kind == TERMINAL:
            self.end(msgspec.json.decode(frame, type=_End).status)
        return True

    def resume(self, seq: int) -> bool:
        """Set the cursor to ``seq`` and deliver what was held; return False for a hole.

        The client has been given everything up to ``seq``.
        """
        self.seq = seq
        self.admitted = True
        held, self._held = self._held, None
        whole = True
        for kind, at, frame in held or ():
            whole = self.offer(kind, at, frame) and whole
        return whole
