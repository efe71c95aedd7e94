"""WebSocket only: counts a client's messages and decides each answer; no I/O.

``sync`` asks for a new snapshot, ``ping`` for a ``pong``. Everything else is ignored,
but counts.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar, Final

import msgspec

from server.domain.client_json import BadJson, decode_json
from server.domain.owner_cursor import checked_cursor
from server.domain.session import MAX_SEQ

INBOUND_LIMIT: Final = 100
"""Maximum messages of one client in :data:`INBOUND_SECONDS`; more is misuse."""

INBOUND_SECONDS: Final = 10.0
"""Length of the sliding window in which messages are counted."""

SYNC_SECONDS: Final = 1.0
"""Minimum time between two ``sync`` that are answered."""

MAX_DEPTH: Final = 16
"""Maximum depth of a message; a deeper one is ignored like any other nonsense."""


class _Message(msgspec.Struct):
    type: str = ""
    since: int = 0


class _MessageToAll(msgspec.Struct):
    type: str = ""
    since: dict[str, int] = {}


class Answer(Enum):
    """How a message is answered."""

    NOTHING = "nothing"
    PONG = "pong"
    SYNC = "sync"
    CLOSE = "close"


class InboundState:
    """The recent messages of one client; made when it sends its first one."""

    __slots__ = ("_last_sync", "_times", "sync_since", "syncing")

    message: ClassVar[type[_Message | _MessageToAll]] = _Message

    def __init__(self) -> None:
        self._times: list[float] = []
        """When the client sent, within the last :data:`INBOUND_SECONDS`."""
        self._last_sync = float("-inf")
        self.sync_since = 0
        """The cursor of the ``sync`` that is being answered."""
        self.syncing = False
        """Whether a ``sync`` is being answered; set here, cleared by its answer."""

    def __repr__(self) -> str:
        return f"<InboundState recent={len(self._times)} syncing={self.syncing}>"

    def receive(self, text: str, now: float, *, admitted: bool) -> Answer:
        """Count a message and return how it is answered.

        ``now``: monotonic seconds. ``admitted``: the client has its snapshot; before
        that nothing is answered, for only then is it known to have access.
        """
        self._times = [at for at in self._times if now - at < INBOUND_SECONDS]
        self._times.append(now)
        if len(self._times) > INBOUND_LIMIT:
            return Answer.CLOSE
        if not admitted and not self.syncing:
            return Answer.NOTHING
        try:
            message = decode_json(text, self.message, max_depth=MAX_DEPTH)
        except BadJson:
            return Answer.NOTHING
        if message.type == "ping":
            return Answer.PONG
        if message.type == "sync" and not self.syncing and now - self._last_sync >= SYNC_SECONDS:
            self._last_sync = now
            self.keep(message.since)
            self.syncing = True  # one at a time: a slow read's snapshot must not follow a quick one's
            return Answer.SYNC
        return Answer.NOTHING

    def keep(self, since: Any) -> None:
        """Remember the cursor of a ``sync``, brought into its range."""
        self.sync_since = min(max(0, since), MAX_SEQ)


class OwnerInboundState(InboundState):
    """The same for a client that follows all sessions of its owner."""

    __slots__ = ("sync_seqs",)

    message = _MessageToAll

    def __init__(self) -> None:
        super().__init__()
        self.sync_seqs: dict[str, int] = {}
        """The cursor of the ``sync`` that is being answered: a seq per session."""

    def keep(self, since: Any) -> None:
        """Remember the cursor of a ``sync``: the pairs that can be ones."""
        self.sync_seqs = checked_cursor(since)
