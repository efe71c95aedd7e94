"""The keys under which the files of a session are stored."""

from __future__ import annotations

import re
from typing import Final

from server.domain.session import Session
from tryon.protocol.states import Status

_SESSION_ID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ROLE: Final = r"[a-z][a-z0-9_]{0,31}"
_KEY: Final = re.compile(
    rf"(?:inputs/{_SESSION_ID}-(?:{_ROLE}-[0-9]{{1,9}}|image|garment)"
    rf"|outputs/{_SESSION_ID}-[0-9]{{1,9}}(?:-{_ROLE}-[0-9]{{1,9}})?"
    rf"|previews/{_SESSION_ID}-[0-9]{{1,9}}-[0-9]{{1,9}})\.[a-z0-9]{{1,8}}(?![^.])",
    re.ASCII,
)
"""The keys that :func:`input_key`, :func:`output_key` and :func:`preview_key` return,
and those of sessions from before there were roles; the name of an unfinished file goes
on behind a dot.
"""

RESULTS: Final = ("outputs/", "previews/")
"""Beginnings of the keys of files that a worker stores before their row."""


def input_key(session_id: str, role: str, index: int, extension: str) -> str:
    """Return the key of a photo."""
    return f"inputs/{session_id}-{role}-{index}.{extension}"


def output_key(session_id: str, attempt: int, role: str, index: int, extension: str) -> str:
    """Return the key of a result of one attempt: no two attempts share a file."""
    return f"outputs/{session_id}-{attempt}-{role}-{index}.{extension}"


def preview_key(session_id: str, attempt: int, number: int, extension: str) -> str:
    """Return the key of the preview with this number of an attempt."""
    return f"previews/{session_id}-{attempt}-{number}.{extension}"


def session_of(key: str) -> str:
    """Return the id of the session that a file belongs to, unchecked."""
    return key.partition("/")[2][:36]


def is_ours(key: str) -> bool:
    """Return whether the product can have written a file, or part of one, as this."""
    return _KEY.match(key) is not None


def may_have_unnamed_outputs(session: Session) -> bool:
    """Return whether an attempt may have left results or previews behind.

    It died after it had stored one, or could not delete a preview that was replaced. No
    row names such a file: only a listing finds it.
    """
    completed_at_once = session.attempt == 1 and session.status is Status.COMPLETED
    return session.attempt > 0 and (not completed_at_once or session.preview is not None)
