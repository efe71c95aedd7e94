"""The check of every call that only a session's owner may make."""

from __future__ import annotations

from server.adapters.database.reading import SessionReader
from server.domain.session import Session, valid_session_id
from tryon.protocol.errors import NotFound


async def owned_session(reader: SessionReader, session_id: str, owner: str | None) -> Session:
    """Return the living session if ``owner`` (hash of a token) owns it.

    A ticket is read-only and owns nothing: its ``owner`` is None. Raises NotFound for
    an unknown id and for another owner's session alike.
    """
    session = await reader.get(session_id) if valid_session_id(session_id) else None
    if session is None or session.owner != owner:
        raise NotFound
    return session
