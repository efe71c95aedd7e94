"""The frames of ``tryon.v1``: one JSON object per text frame, the field ``type`` says
which.

Unknown types and fields are ignored.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tryon.protocol.states import Event, Status
from tryon.protocol.views import SessionView

SUBPROTOCOL: Final = "tryon.v1"
BEARER_SUBPROTOCOL: Final = "tryon.bearer."


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
    data: dict[str, Any]


class SnapshotFrame(msgspec.Struct, frozen=True, tag_field="type", tag="snapshot"):
    """The whole session, always first.

    ``missed`` holds the events after ``?since=``, in order.
    """

    session: SessionView
    missed: list[EventFrame]
    ping_seconds: int | float


class ProgressFrame(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="progress"):
    """The latest word about the transition ``seq``; not an event, may be dropped or
    coalesced.

    While a session waits it tells the place in the queue, ``queue_position``; else that
    field is missing.
    """

    session_id: str
    seq: int
    progress: float | None
    stage: str | None
    eta_seconds: float | None
    at: str
    queue_position: int | None = None


class PingFrame(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """For the page's watchdog: no ping for two periods means the connection is dead."""

    at: str


class PongFrame(msgspec.Struct, frozen=True, tag_field="type", tag="pong"):
    """The answer to a client's ``{"type":"ping"}``."""

    at: str


class ErrorFrame(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """A refusal that a person should understand; ``bye`` follows."""

    code: str
    message: str


class ByeFrame(msgspec.Struct, frozen=True, tag_field="type", tag="bye"):
    """The last frame before the close: the close code again, and whether and when to
    come back.
    """

    code: int
    reason: str
    reconnect: bool
    retry_after_ms: int | None = None


Frame = SnapshotFrame | EventFrame | ProgressFrame | PingFrame | PongFrame | ErrorFrame | ByeFrame


class ClientPing(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """Asks for a ``pong``."""


class ClientSync(msgspec.Struct, frozen=True, tag_field="type", tag="sync"):
    """Asks for a new snapshot, with the events after ``since`` in ``missed``; one a
    second is answered.
    """

    since: int = 0


_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """Any frame, view or problem as JSON."""
    return _encoder.encode(value)
