"""The cursor of a client that follows all sessions of an owner: a seq per session.

As text, in a query or in ``Last-Event-ID``, it is compact: 200 sessions take 5 KiB::

    AZrJ4Kz4cAeHj0lkQmZsbg.3~AZrJ4L0xf0qWc1pTtRzYxw.1

Each pair is a session's id (22 characters of base64url, or the usual 36), a point and
the last seq that the client has seen. What is no pair is ignored: a session without one
counts as never seen, so a client is given too much rather than too little.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterable, Mapping
from typing import Final

from server.domain.session import MAX_SEQ, valid_session_id
from tryon.protocol.numbers import whole_number

MAX_SESSIONS: Final = 200
"""Maximum living sessions of one connection."""

MAX_PAIRS: Final = MAX_SESSIONS + 1
"""Maximum sessions of one cursor, with the newest that has ended; the rest is ignored.
"""

Seqs = Mapping[str, int]
"""The last seq that a client has seen, by session id."""


def write_cursor(seqs: Iterable[tuple[str, int]]) -> str:
    """Return the cursor of these pairs of a short id (:func:`short_id`) and a seq."""
    return "~".join([f"{short}.{seq}" for short, seq in seqs])


def read_cursor(text: str) -> dict[str, int]:
    """Return the seqs of a cursor; pairs that are malformed are left out."""
    found: dict[str, int] = {}
    for pair in text.split("~", MAX_PAIRS)[:MAX_PAIRS]:
        name, _, number = pair.partition(".")
        session_id, seq = _long_id(name), whole_number(number)
        if session_id is not None and seq is not None:
            found[session_id] = min(seq, MAX_SEQ)
    return found


def checked_cursor(seqs: Seqs) -> dict[str, int]:
    """Return the cursor of a client's JSON: valid ids alone, seqs in their range."""
    pairs = [(name, seq) for name, seq in seqs.items() if valid_session_id(name)]
    return {name: min(max(0, seq), MAX_SEQ) for name, seq in pairs[:MAX_PAIRS]}


def newest_seen(seqs: Seqs) -> str | None:
    """Return the newest session that the client has seen; None if it has seen none."""
    return max((name for name, seq in seqs.items() if seq), default=None)


def short_id(session_id: str) -> str:
    """Return the 16 bytes of an id in base64url: 22 characters."""
    return base64.urlsafe_b64encode(uuid.UUID(session_id).bytes)[:22].decode()


def _long_id(name: str) -> str | None:
    """Return the id that a pair of a cursor names, short or long; None for no id."""
    if valid_session_id(name):
        return name
    if len(name) != 22:
        return None
    try:
        return str(uuid.UUID(bytes=base64.b64decode(f"{name}==", b"-_", validate=True)))
    except ValueError:  # binascii.Error and UnicodeEncodeError are ValueErrors
        return None
