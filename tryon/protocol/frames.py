"""The frames of ``tryon.v1``: one JSON object per text frame, named by ``type``.

Both sides ignore unknown types and fields.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tryon.protocol.states import Event, Status
from tryon.protocol.views import EventData, SessionView

SUBPROTOCOL: Final = "tryon.v1"
"""The WebSocket subprotocol."""

BEARER_SUBPROTOCOL: Final = "tryon.bearer."
"""Prefix of the second subprotocol a browser offers: the client token follows it."""


class EventFrame(msgspec.Struct, frozen=True, tag_field="type", tag="event"):
    """One transition.

    ``data`` depends on the event: the attempt, signed links, the error.
    """

    session_id: str
    seq: int
    event: Event
    from_: Status | None = msgspec.field(name="from")
    status: Status
    terminal: bool
    at: str
    data: EventData


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
    waits, it carries the place in the queue, ``queue_position``; otherwise that field
    is missing.
    """

    session_id: str
    seq: int
    progress: float | None
    stage: str | None
    eta_seconds: float | None
    at: str
    queue_position: int | None = None


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


Frame = SnapshotFrame | EventFrame | ProgressFrame | PingFrame | PongFrame | ErrorFrame | ByeFrame


class ClientPing(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """A request for a ``pong``."""


class ClientSync(msgspec.Struct, frozen=True, tag_field="type", tag="sync"):
    """A request for a new snapshot, with the events after ``since`` in ``missed``.

    The server answers one a second.
    """

    since: int = 0


_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """Return a frame, view or problem as JSON."""
    return _encoder.encode(value)
