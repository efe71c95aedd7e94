r"""The message that carries one frame through Redis.

It is a fixed prefix of 18 bytes, then the frame, byte for byte as clients will see it::

    e0000000003000001 {"type":"event",...}
    |\________/\____/
    |  seq      attempt
    kind: e event, w event after which the session waits, t terminal event,
          p progress, g gone

The hub passes a frame on without reading its JSON (:func:`parse_prefix`).
"""

from __future__ import annotations

from typing import Final

from server.domain.frames import LinkFile, event_frame, progress_frame
from server.domain.session import AuditEvent, Progress
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.frames import bye, encode
from tryon.protocol.states import GoneReason, Status

PREFIX_BYTES: Final = 18
"""Length of the prefix, its space included."""

EVENT: Final = ord("e")
WAITING: Final = ord("w")
TERMINAL: Final = ord("t")
PROGRESS: Final = ord("p")
GONE: Final = ord("g")

_KINDS: Final = frozenset((EVENT, WAITING, TERMINAL, PROGRESS, GONE))


def bus_message(kind: int, seq: int, attempt: int, frame: bytes) -> bytes:
    """Return the frame behind its prefix."""
    return b"%c%010d%06d " % (kind, seq, attempt) + frame


def parse_prefix(message: bytes) -> tuple[int, int]:
    """Return kind and seq; only the script in Redis reads the attempt.

    Raises ValueError for anything that is not a bus message.
    """
    if message[17:18] != b" " or (kind := message[0]) not in _KINDS:
        raise ValueError(f"not a bus message: {message[:20]!r}")
    return kind, int(message[1:11])


def event_message(event: AuditEvent, link: LinkFile) -> bytes:
    """Return the message of one transition."""
    kind = TERMINAL if event.status.terminal else WAITING if event.status is Status.CREATED else EVENT
    return bus_message(kind, event.seq, event.attempt, encode(event_frame(event, link)))


def progress_message(session_id: str, progress: Progress, link: LinkFile | None = None) -> bytes:
    """Return the message of the latest progress; ``link``: for its preview, if any."""
    return bus_message(PROGRESS, progress.seq, progress.attempt, encode(progress_frame(session_id, progress, link)))


def gone_message(reason: GoneReason) -> bytes:
    """Return the message that ends every connection that follows an erased session."""
    return bus_message(GONE, 0, 0, encode(bye(CloseCode.GONE, reason.value)))
