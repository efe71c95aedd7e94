"""Close codes of a WebSocket: the reason, and the client's next step.

4000-4499 means reconnect, 4500-4999 means stop, also for codes that a client does not
know (:func:`may_reconnect`). To add a close code, add a member and a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final


class CloseCode(IntEnum):
    """The close codes of ``tryon.v1``; below 4000 those of RFC 6455 (section 7.4.1)."""

    DONE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    ABNORMAL = 1006
    INVALID_TEXT = 1007
    MESSAGE_TOO_BIG = 1009
    RESTART = 1012
    DRAINING = 4000
    RESYNC = 4001
    TOO_SLOW = 4002
    NO_PONG = 4003
    MAXIMUM_AGE = 4005
    RATE_LIMITED = 4029
    OVERLOADED = 4053
    MISUSE = 4500
    UNAUTHORIZED = 4501
    NOT_FOUND = 4504
    GONE = 4510


class Reconnect(Enum):
    """Whether and when a client reconnects."""

    NO = "no"
    JITTER = "yes, full jitter"
    AT_ONCE = "yes, at once, then back off"
    AS_TOLD = "yes, after retry_after_ms"


@dataclass(frozen=True, slots=True)
class Closing:
    """One row of the table.

    ``reasons``: what ``bye`` gives as its reason, besides error codes with that close
    code.
    """

    code: CloseCode
    meaning: str
    reconnect: Reconnect
    reasons: tuple[str, ...] = ()


CLOSE_CODES: Final[tuple[Closing, ...]] = (
    Closing(CloseCode.DONE, "the terminal event was delivered", Reconnect.NO, ("completed", "failed", "cancelled")),
    Closing(CloseCode.GOING_AWAY, "going away", Reconnect.JITTER),
    Closing(CloseCode.ABNORMAL, "lost without a close frame", Reconnect.JITTER),
    Closing(CloseCode.RESTART, "restarted", Reconnect.JITTER, ("restart",)),
    Closing(CloseCode.PROTOCOL_ERROR, "broken frame (RFC 6455)", Reconnect.NO),
    Closing(CloseCode.INVALID_TEXT, "text that is not UTF-8 (RFC 6455)", Reconnect.NO),
    Closing(CloseCode.MESSAGE_TOO_BIG, "a message larger than 4 KiB (RFC 6455)", Reconnect.NO),
    Closing(CloseCode.DRAINING, "draining: this server is about to stop", Reconnect.AS_TOLD, ("draining",)),
    Closing(CloseCode.RESYNC, "resync: the server failed", Reconnect.AT_ONCE),
    Closing(CloseCode.TOO_SLOW, "too slow: the client did not read what was sent", Reconnect.AT_ONCE, ("too_slow",)),
    Closing(CloseCode.NO_PONG, "no pong came back", Reconnect.AT_ONCE, ("no_pong",)),
    Closing(CloseCode.MAXIMUM_AGE, "maximum age of a connection", Reconnect.AS_TOLD, ("maximum_age",)),
    Closing(CloseCode.RATE_LIMITED, "rate limited: too many connections", Reconnect.AS_TOLD),
    Closing(CloseCode.OVERLOADED, "overloaded, or the database is unavailable", Reconnect.AS_TOLD),
    Closing(CloseCode.MISUSE, "misuse: more than 100 messages in 10 seconds", Reconnect.NO, ("misuse",)),
    Closing(CloseCode.UNAUTHORIZED, "bad ticket or token", Reconnect.NO),
    Closing(CloseCode.NOT_FOUND, "unknown, or not yours", Reconnect.NO),
    Closing(CloseCode.GONE, "deleted or expired: nothing of it is left", Reconnect.NO),
)

BY_CODE: Final = {row.code: row for row in CLOSE_CODES}
"""The rows by their codes."""

AT_ONCE: Final = frozenset(row.code for row in CLOSE_CODES if row.reconnect is Reconnect.AT_ONCE)
"""Codes after which a client reconnects without a pause, the first time."""

BROKEN: Final = frozenset(row.code for row in CLOSE_CODES if row.reconnect is Reconnect.NO and row.code < 4000)
"""Codes that end a transport for a session if they come before the terminal event."""


def may_reconnect(code: int) -> bool:
    """Return whether a client reconnects after this application code (4000-4999)."""
    return not 4500 <= code <= 4999
