"""The check of every call that only a session's owner may make."""

from __future__ import annotations

from server.adapters.database.reading import SessionReader
from server.domain.session import Session, valid_session_id
from server.domain.tokens import same_owner
from tryon.protocol.errors import NotFound


async def owned_session(reader: SessionReader, session_id: str, owner: str | None) -> Session:
    """Return the living session if ``owner`` (hash of a token) owns it.

    A ticket is read-only and owns nothing: its ``owner`` is None. Raises NotFound for
    an unknown id and for another owner's session alike, and after the same work.
    """
    session = None
    if valid_session_id(session_id):
        session = await reader.get(session_id, lambda _, found: same_owner(owner, found))
    if session is None:
        raise NotFound
    return session
