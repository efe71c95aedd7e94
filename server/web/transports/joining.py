"""Joining a session, once for all transports: register, subscribe, read, send, follow.

The order of the five steps leaves no gap; :mod:`server.web.push.hub` explains why.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from server.config.settings import Config
from server.domain.session import MAX_SEQ, valid_session_id
from server.sessions.reads import Credential, SessionRead, SessionReads
from server.telemetry import metrics
from server.web.push.follower import Follower
from server.web.push.hub import Hub
from server.web.transports.connection_limits import ConnectionLimits
from server.web.transports.listener import Listener
from tryon.protocol.errors import Unavailable
from tryon.protocol.frames import SnapshotFrame, encode
from tryon.protocol.numbers import whole_number

_SNAPSHOTS: Final = metrics.frames.labels("snapshot")


class Joining:
    """The five steps, over the hub, the reads and the connection limits."""

    __slots__ = ("_hub", "_limits", "_ping_seconds", "_reads")

    def __init__(self, *, config: Config, hub: Hub, reads: SessionReads, limits: ConnectionLimits) -> None:
        self._hub = hub
        self._reads = reads
        self._limits = limits
        self._ping_seconds = whole(config.ping_seconds)

    def __repr__(self) -> str:
        return f"<Joining {self._hub!r}>"

    async def join(
        self, follower: Follower, credential: Credential, *, since: int | None, transport: str
    ) -> SessionRead:
        """Register, subscribe, read; the caller calls :meth:`leave`, also on an error.

        Raises NotFound, RateLimited (too many connections to this session) and
        Unavailable.
        """
        session_id = follower.session_id
        if valid_session_id(session_id):  # else there is nothing to follow, and the read refuses it
            await self._hub.confirmation(self._hub.join(follower, transport=transport))
        read = await self._reads.read(session_id, credential, since=since)
        self._limits.check_session(self._hub.followers_of(session_id))
        return read

    def leave(self, follower: Follower, *, transport: str) -> None:
        """Forget a follower; do nothing if that was done before."""
        self._hub.leave(follower, transport=transport)

    @contextlib.asynccontextmanager
    async def joined(
        self, follower: Follower, credential: Credential, *, since: int | None, transport: str
    ) -> AsyncIterator[SessionRead]:
        """Join, and stay registered for as long as this is open."""
        try:
            yield await self.join(follower, credential, since=since, transport=transport)
        finally:
            self.leave(follower, transport=transport)

    def show(self, listener: Listener, read: SessionRead) -> None:
        """Send the snapshot, then follow: what came meanwhile is delivered now.

        A client that has left, or does not take the snapshot, has been given nothing.
        """
        session = read.session
        listener.snapshot(encode(SnapshotFrame(read.view, read.missed, self._ping_seconds)), session.seq)
        if listener not in self._hub.registry:
            return
        _SNAPSHOTS.inc()
        if session.status.terminal:
            self._hub.deliveries.note_shown(session)
            listener.end(session.status.value)
        else:
            self._hub.release(listener, session)

    async def show_again(self, listener: Listener, *, since: int) -> None:
        """Send a new snapshot to a client that is joined already.

        Frames are held from before the read, so that no snapshot steps back behind an
        event that was sent. Raises NotFound and Unavailable; after Unavailable the
        client goes on from where it was.
        """
        before, listener.seq = listener.seq, None
        try:
            read = await self._reads.read_again(listener.session_id, until=listener.until, since=since)
        except Unavailable:
            if before is not None:
                self._hub.resume(listener, before)
            raise
        self.show(listener, read)


def cursor_of(text: str | None) -> int | None:
    """Return the seq in a client's ``since`` or ``Last-Event-ID``; None if it has none.

    Anything that can be no seq counts as 0: the client has missed everything.
    """
    if text is None:
        return None
    seq = whole_number(text)
    return seq if seq is not None and seq <= MAX_SEQ else 0


def whole(seconds: float) -> int | float:
    """Return 25 for 25.0, as the snapshot shows it."""
    return int(seconds) if seconds == int(seconds) else seconds
