"""One session on a connection of its owner: a follower that shares its line."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

from server.domain.owner_cursor import short_id
from server.web.push.follower import Follower
from tryon.protocol.states import GoneReason


class Line(Follower):
    """The client of a connection that follows all sessions of an owner.

    As a follower it is on the ping wheel, and told of drains and its maximum age. Its
    ``seq`` is None until the first snapshots were sent, then 0. No method but
    :meth:`taken` may block.
    """

    __slots__ = ()

    @abstractmethod
    def put(self, frame: bytes) -> None:
        """Send a frame that belongs to no session."""

    @abstractmethod
    def transition(self, session_id: str, frame: bytes, cursor: Callable[[], str]) -> None:
        """Send a snapshot, an event or an end; if that fails, disconnect the client.

        ``cursor``: returns the client's cursor once it has the frame.
        """

    @abstractmethod
    def latest(self, session_id: str, frame: bytes) -> None:
        """Send progress of a session; the next one may replace it before it is sent."""

    @property
    @abstractmethod
    def lost(self) -> bool:
        """Return whether frames are dropped now: the client was given up."""

    @abstractmethod
    async def taken(self) -> None:
        """Wait until the client has read what was sent, or is disconnected."""


class Host(Protocol):
    """The connection that a member belongs to. ``closed``: its client was given up."""

    @property
    def line(self) -> Line: ...
    @property
    def closed(self) -> bool: ...

    def cursor(self) -> str:
        """Return the client's cursor of all sessions."""

    def ended(self, session_id: str, reason: str, seq: int) -> None:
        """Tell the client once that nothing follows of a session, and leave it.

        ``seq``: the last that the client was given.
        """


class Member(Follower):
    """One session of a connection. ``since``: what its client has seen, while held."""

    __slots__ = ("_host", "confirmed", "name", "since")

    alone: ClassVar[bool] = False

    def __init__(self, session_id: str, host: Host, since: int | None) -> None:
        super().__init__(session_id)
        self._host = host
        self.since = since
        self.name = short_id(session_id)
        self.confirmed: asyncio.Future[None] | None = None
        """Done when the subscription is confirmed, or has not been in time."""

    def __repr__(self) -> str:
        return f"<Member {self.session_id} seq={self.seq}>"

    def event(self, frame: bytes) -> None:
        """Hand one transition on."""
        self._host.line.transition(self.session_id, frame, self._host.cursor)
        if self._host.closed or self._host.line.lost:
            self.seq = None  # the client was not given this

    def progress(self, frame: bytes) -> None:
        """Hand progress on."""
        self._host.line.latest(self.session_id, frame)

    def ping(self, frame: bytes) -> None:
        """Do nothing: the line is pinged."""

    def end(self, status: str) -> None:
        """Leave the watch: the terminal event was delivered."""
        self._host.ended(self.session_id, status, self.seq or 0)

    def gone(self, reason: GoneReason) -> None:
        """Leave the watch: the session was erased."""
        self._host.ended(self.session_id, reason.value, self.seq or self.since or 0)

    def too_old(self, retry_after_ms: int) -> None:
        """Ask the client to reconnect."""
        self._host.line.too_old(retry_after_ms)

    def drain(self, retry_after_ms: int) -> None:
        """Ask the client to reconnect: the server is stopping."""
        self._host.line.drain(retry_after_ms)

    def broken(self, retry_after_ms: int) -> None:
        """Ask the client to reconnect: a delivery failed."""
        self._host.line.broken(retry_after_ms)

    def hold(self) -> None:
        """Hold frames from now on, until a new snapshot was sent."""
        if self.seq is not None:
            self.since, self.seq = self.seq, None
