"""The frames of ``tryon.v1``: one JSON object per text frame, named by ``type``.

Both sides ignore unknown types and fields.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tryon.protocol.close_codes import BY_CODE, CloseCode, Reconnect
from tryon.protocol.states import Event, Status
from tryon.protocol.views import EventData, SessionView

SUBPROTOCOL: Final = "tryon.v1"
"""The WebSocket subprotocol."""

BEARER_SUBPROTOCOL: Final = "tryon.bearer."
"""Prefix of the second subprotocol a browser offers: the client token follows it."""


class EventFrame(msgspec.Struct, frozen=True, tag_field="type", tag="event"):
    """One transition.

    ``data`` depends on the event: the attempt, signed links, the error. ``trace`` (W3C
    ``traceparent``) is there where the server's settings say so.
    """

    session_id: str
    seq: int
    event: Event
    from_: Status | None = msgspec.field(name="from")
    status: Status
    terminal: bool
    at: str
    data: EventData
    trace: str | msgspec.UnsetType = msgspec.UNSET


class SnapshotFrame(msgspec.Struct, frozen=True, tag_field="type", tag="snapshot"):
    """The whole session, always first.

    ``missed`` holds the events after ``?since=``, in order.
    """

    session: SessionView
    missed: list[EventFrame]
    ping_seconds: int | float


class ProgressFrame(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="progress"):
    """The latest progress of the transition ``seq``.

    It is not an event, and may be dropped or merged with a later one. While a session
    waits, it carries the place in the queue, ``queue_position``. That field is missing
    otherwise, as ``step``, ``steps``, ``upstream_position`` and ``preview`` (a signed
    link) are where a processor does not report them.
    """

    session_id: str
    seq: int
    progress: float | None
    stage: str | None
    eta_seconds: float | None
    at: str
    queue_position: int | None = None
    step: int | None = None
    steps: int | None = None
    upstream_position: int | None = None
    preview: str | None = None


class EndedFrame(msgspec.Struct, frozen=True, tag_field="type", tag="ended"):
    """The end of one session on a connection that follows all of an owner's.

    ``reason``: the status it ended in, or why it was erased (``deleted``, ``expired``).
    """

    session_id: str
    reason: str


class SyncedFrame(msgspec.Struct, frozen=True, tag_field="type", tag="synced"):
    """The end of the snapshots on a connection that follows all sessions of an owner.

    ``sessions``: how many living ones it follows. ``more``: there are older ones that
    it does not; each gets its snapshot when there is room. Sent again when ``more``
    changes, and after the snapshots that answer a ``sync``.
    """

    sessions: int
    more: bool
    ping_seconds: int | float


class PingFrame(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """A sign of life: no ping for two periods means that the connection is dead."""

    at: str


class PongFrame(msgspec.Struct, frozen=True, tag_field="type", tag="pong"):
    """The answer to a client's ``{"type":"ping"}``."""

    at: str


class ErrorFrame(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """A refusal with a message that is safe to show; ``bye`` follows."""

    code: str
    message: str


class ByeFrame(msgspec.Struct, frozen=True, tag_field="type", tag="bye"):
    """The last frame: the close code that follows, whether and when to reconnect."""

    code: int
    reason: str
    reconnect: bool
    retry_after_ms: int | None = None


def bye(code: int, reason: str | None = None, *, retry_after_ms: int | None = None) -> ByeFrame:
    """Return the last frame before this close code, as the table has it.

    ``reason``: the only one that the table lists, if None. Raises ValueError for a
    code that is not in the table, or that has no single reason.
    """
    row = BY_CODE[CloseCode(code)]
    if reason is None:
        (reason,) = row.reasons
    return ByeFrame(code, reason, row.reconnect is not Reconnect.NO, retry_after_ms)


Frame = SnapshotFrame | EventFrame | ProgressFrame | PingFrame | PongFrame | ErrorFrame | ByeFrame
"""A frame on a connection that follows one session."""

OwnerFrame = Frame | EndedFrame | SyncedFrame
"""A frame on a connection that follows all sessions of an owner."""


class ClientPing(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """A request for a ``pong``."""


class ClientSync(msgspec.Struct, frozen=True, tag_field="type", tag="sync"):
    """A request for a new snapshot, with the events after ``since`` in ``missed``.

    The server answers one a second.
    """

    since: int = 0


class ClientSyncAll(msgspec.Struct, frozen=True, tag_field="type", tag="sync"):
    """A request for new snapshots of all living sessions of the owner.

    ``since``: the last seq seen of each session; one that it does not name has all of
    its events in ``missed``. The server answers one a second.
    """

    since: dict[str, int] = {}


_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """Return a frame, view or problem as JSON."""
    return _encoder.encode(value)
