"""Reads of sessions by clients: one session, its history, a file, a share, a list.

Each answer is built from one statement, so its session and events belong together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from server.adapters.database.clock import DatabaseClock
from server.adapters.database.reading import SessionReader
from server.adapters.redis.bus import RedisBus
from server.domain.access import Access, share, view
from server.domain.frames import event_frame, history_event
from server.domain.session import Session, timestamp, valid_session_id
from server.domain.stored_files import StoredFile
from server.domain.tokens import Signer, same_owner, token_hash
from server.sessions.access import AccessIssuer
from server.sessions.file_keys import session_of
from server.sessions.ownership import owned_session
from server.sessions.queue_places import QueuePlaces
from server.sessions.shared_reads import Reading, SharedReads
from tryon.protocol.errors import NotFound, Unauthorized
from tryon.protocol.frames import EventFrame
from tryon.protocol.states import Status
from tryon.protocol.views import History, SessionView, Share


@dataclass(frozen=True, slots=True)
class Credential:
    """The credential of a client: the hash of a token, or a ticket, or nothing."""

    owner: str | None = None
    ticket: str | None = None

    @classmethod
    def of_token(cls, token: str) -> Credential:
        """Return the credential of a client that presented this token."""
        return cls(owner=token_hash(token))

    def owns(self, owner: str) -> bool:
        """Return whether a session of ``owner`` is this client's, in constant time."""
        return same_owner(self.owner, owner)


@dataclass(frozen=True, slots=True)
class SessionRead:
    """One session as one client may see it, all of it read by one statement."""

    session: Session
    view: SessionView
    missed: list[EventFrame]
    access: Access


class SessionReads:
    """The reads of clients, from database, progress and queue places; stateless."""

    def __init__(
        self,
        *,
        reader: SessionReader,
        shared_reads: SharedReads,
        bus: RedisBus,
        queue_places: QueuePlaces,
        access: AccessIssuer,
        signer: Signer,
        database_clock: DatabaseClock,
    ) -> None:
        self._reader = reader
        self._shared_reads = shared_reads
        self._bus = bus
        self._queue_places = queue_places
        self._access = access
        self._signer = signer
        self._database_clock = database_clock

    async def read(self, session_id: str, credential: Credential, *, since: int | None = None) -> SessionRead:
        """Return the session as this client may see it, with events after ``since``.

        Raises NotFound for an unknown id and for a wrong or missing credential alike,
        Unauthorized for a bad ticket.
        """
        return await self._as_seen(*await self._read_as(session_id, credential, since))

    async def read_again(self, session_id: str, *, until: int | None, since: int | None) -> SessionRead:
        """Return the session for a client that was admitted before.

        An open socket outlives its ticket. Raises NotFound once the session is erased.
        """
        reading = await self._read(session_id, since, lambda owner: True)
        if reading is None:
            raise NotFound
        return await self._as_seen(reading, until)

    async def living(self, owner: str, *, limit: int) -> list[str]:
        """Return the ids of an owner's sessions that have not ended, newest first."""
        return await self._reader.unfinished_of_owner(owner, limit=limit)

    async def ended_lately(self, owner: str, *, created_seconds: float, limit: int) -> list[str]:
        """Return the ids of an owner's new sessions that have ended, newest first."""
        return await self._reader.finished_of_owner(owner, created_seconds=created_seconds, limit=limit)

    async def view_of(self, session: Session) -> SessionView:
        """Return its owner's view of a session that was just read or made."""
        return (await self._views([session]))[0]

    async def mine(
        self, owner: str, *, limit: int, before: tuple[datetime, str] | None
    ) -> tuple[list[SessionView], tuple[datetime, str] | None]:
        """Return a page of an owner's sessions, newest first, and the next one's start.

        ``before`` is the start of a page: a creation time and an id.
        """
        sessions = await self._reader.of_owner(owner, limit=limit + 1, before=before)
        page = sessions[:limit]
        views = await self._views(page)
        return views, (page[-1].created_at, page[-1].id) if len(sessions) > limit else None

    async def history(self, session_id: str, credential: Credential) -> History:
        """Return the audit trail from the beginning. Raises as :meth:`read`."""
        reading, until = await self._read_as(session_id, credential, 0)
        access = self._access.issue(until=until)
        delivered_at = reading.found.session.delivered_at
        return History(
            [history_event(event, access.file) for event in reading.found.events],
            None if delivered_at is None else timestamp(delivered_at),
        )

    async def share(self, session_id: str, owner: str | None) -> Share:
        """Return a link to the first result for others. Raises NotFound, Conflict."""
        session = await owned_session(self._reader, session_id, owner)
        return share(session, signer=self._signer, now=self._database_clock.now())

    async def file(self, key: str, *, expires: str, key_id: str, signature: str) -> tuple[StoredFile, int]:
        """Return the file that a signed link opens, and the seconds left of the link.

        Raises NotFound for a bad link, and if no living session names the file.
        """
        now = self._database_clock.now()
        until = self._signer.check_link(key, expires=expires, key_id=key_id, signature=signature, now=now)
        if until is None:
            raise NotFound
        session_id = session_of(key)
        session = await self._reader.get(session_id) if valid_session_id(session_id) else None
        file = next((file for file in session.files if file.key == key), None) if session else None
        if file is None:
            raise NotFound
        return file, max(1, int(until - now))

    async def _read_as(self, session_id: str, credential: Credential, since: int | None) -> tuple[Reading, int | None]:
        """Return the reading, and the end of the client's ticket (None for a token).

        Raises as :meth:`read`.
        """
        until = None
        if credential.ticket is not None:
            until = self._signer.check_ticket(session_id, credential.ticket, now=self._database_clock.now())
            if until is None:
                raise Unauthorized("invalid_ticket")
        reading = await self._read(session_id, since, lambda owner: until is not None or credential.owns(owner))
        if reading is None:
            raise NotFound
        return reading, until

    async def _read(self, session_id: str, since: int | None, may: Callable[[str], bool]) -> Reading | None:
        return await self._shared_reads.read(session_id, since, may) if valid_session_id(session_id) else None

    async def _as_seen(self, reading: Reading, until: int | None) -> SessionRead:
        session, access = reading.found.session, self._access.issue(until=until)
        waiting = (await self._queue_places.current()).get(session.id) if session.status is Status.CREATED else None
        return SessionRead(
            session,
            view(session, access, progress=reading.progress, waiting=waiting),
            [event_frame(event, access.file) for event in reading.found.events],
            access,
        )

    async def _views(self, sessions: list[Session]) -> list[SessionView]:
        access = self._access.issue()
        progress = await self._bus.last_progress([s.id for s in sessions if s.status is Status.PROCESSING])
        waiting = await self._queue_places.current() if any(s.status is Status.CREATED for s in sessions) else {}
        return [view(s, access, progress=progress.get(s.id), waiting=waiting.get(s.id)) for s in sessions]
