"""The keys under which the files of a session are stored."""

from __future__ import annotations

import re
from typing import Final

from server.domain.session import Session
from tryon.protocol.states import Status

_SESSION_ID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_KEY: Final = re.compile(
    rf"(?:inputs/{_SESSION_ID}-(?:image|garment)|outputs/{_SESSION_ID}-[0-9]{{1,9}})\.[a-z0-9]{{1,8}}(?![^.])", re.ASCII
)
"""The keys that :func:`image_key`, :func:`garment_key` and :func:`output_key` return;
the name of an unfinished file goes on behind a dot.
"""


def image_key(session_id: str, extension: str) -> str:
    """Return the key of the photo of the person."""
    return f"inputs/{session_id}-image.{extension}"


def garment_key(session_id: str, extension: str) -> str:
    """Return the key of the photo of the garment."""
    return f"inputs/{session_id}-garment.{extension}"


def output_key(session_id: str, attempt: int, extension: str) -> str:
    """Return the key of the result of one attempt: no two attempts share a file."""
    return f"outputs/{session_id}-{attempt}.{extension}"


def session_of(key: str) -> str:
    """Return the id of the session that a file belongs to, unchecked."""
    return key.partition("/")[2][:36]


def is_ours(key: str) -> bool:
    """Return whether the product can have written a file, or part of one, as this."""
    return _KEY.match(key) is not None


def may_have_unnamed_outputs(session: Session) -> bool:
    """Return whether an attempt may have died after it had stored its result.

    No row names such a file: only a listing finds it.
    """
    return session.attempt > 1 or (session.attempt == 1 and session.status is not Status.COMPLETED)
