"""All sessions of one owner on one connection: a follower for each of them.

Theory of operation
-------------------

A :class:`Watch` holds a :class:`Member` for every living session of its owner. A member
is a follower like any other: registered with the hub, given each transition in order by
the rule of :mod:`server.web.push.follower`, helped by the same recovery. It hands its
frames to the one :class:`Line` of the connection. So the guarantees of a session's own
socket hold here for each session, and what is new is only which sessions there are.

*Joining* is done twice over. First for the owner: register for its channel, wait for
the subscription, read the list of living sessions. A session that is created later than
the list was read is announced; one that is in both is known by its id, and one that had
ended before by a second list, of what ended lately. Then for each session: register,
subscribe, read, show, follow, as in :mod:`server.web.push.hub`; its frames are held
until its snapshot was sent.

*One task* (:meth:`Watch.run`) shows snapshots, one after the other, and lets the client
read in between: two hundred at once would look like a client that does not read. All
else happens in plain functions: :meth:`Watch.announce`, :meth:`Watch.ended`.

*The cursor* of the client is a seq for each session. After a reconnect the sessions of
the list are shown with the events that the client missed. A session that is in the
cursor but not in the list has ended or was erased meanwhile: it is shown with its last
events, or only named as ``ended``. An ended session that is newer than all of the
cursor began and ended while the client was away: it is shown as well. So that a session
which the client has seen to its end is not taken for one, the newest stays in the
cursor after its end.

*The bound.* A connection follows :data:`~server.domain.owner_cursor.MAX_SESSIONS`. If
there are more, ``synced`` says so, and each time one ends the newest of the rest takes
its place.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Final

from server.adapters.database.clock import DatabaseClock
from server.domain.owner_cursor import MAX_SESSIONS, Seqs, newest_seen, short_id, write_cursor
from server.domain.session import time_of_id, timestamp
from server.sessions.reads import Credential, SessionRead, SessionReads
from server.telemetry import metrics
from server.web.push.hub import Hub
from server.web.push.member import Line, Member
from tryon.protocol.errors import NotFound, Unavailable
from tryon.protocol.frames import EndedFrame, PingFrame, SnapshotFrame, SyncedFrame, encode

log = logging.getLogger("tryon.hub")

REMEMBERED: Final = 1000
"""Ended sessions that a watch remembers, so that a late announcement shows none again.
"""

ANNOUNCED_SECONDS: Final = 120.0
"""Time after its creation in which a session may still be announced by the sweep."""

RETRY_SECONDS: Final = 1.0
"""Time after which new sessions are read again when the database was unavailable."""

_SNAPSHOTS: Final = metrics.frames.labels("snapshot")


class Watch:
    """The sessions that one connection follows, and the task that shows them."""

    def __init__(
        self,
        owner: str,
        line: Line,
        *,
        hub: Hub,
        reads: SessionReads,
        database_clock: DatabaseClock,
        ping_seconds: int | float,
        most: int = MAX_SESSIONS,
    ) -> None:
        """``owner``: the hash of the credential."""
        self.owner = owner
        self.line = line
        self.closed = False
        self._credential = Credential(owner=owner)
        self._hub = hub
        self._reads = reads
        self._database_clock = database_clock
        self._ping_seconds = ping_seconds
        self._most = most
        self._members: dict[str, Member] = {}
        self._due: dict[str, int | None] = {}
        """Sessions that are to be read and shown, with what the client has seen."""
        self._ready: list[tuple[str, int | None, SessionRead | None]] = []
        """Sessions that :meth:`join` has read, for :meth:`run` to show."""
        self._owed: dict[str, int] = {}
        """The rest of the client's cursor: sessions that it was not shown yet."""
        self._ended: dict[str, None] = {}
        self._newest = ("", 0)
        """The newest session that has ended here, and its last seq."""
        self._more = False
        self._refill = False
        self._sync: Seqs | None = None
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Watch {self.owner[:8]} sessions={len(self._members)} due={len(self._due)} more={self._more}>"

    # -- what happens meanwhile: plain functions ---------------------------------------

    def announce(self, session_id: str) -> None:
        """Follow a new session, unless it is known already."""
        if self.closed or session_id in self._members or session_id in self._ended or session_id in self._due:
            return
        if self._attach(session_id, self._owed.get(session_id, 0)):
            self._wake.set()

    def sync(self, seqs: Seqs) -> None:
        """Show all living sessions again, soon."""
        self._sync = seqs
        self._wake.set()

    def ended(self, session_id: str, reason: str, seq: int) -> None:
        """Tell the client once that nothing follows of a session, and leave it."""
        member = self._members.pop(session_id, None)
        if member is not None:
            self._hub.detach(member)
        elif session_id in self._ended:
            return
        self._owed.pop(session_id, None)
        self._newest = max(self._newest, (session_id, seq))
        self._ended[session_id] = None
        if len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]
        if self.closed:
            return
        self.line.transition(session_id, encode(EndedFrame(session_id, reason)), self.cursor)
        if self._more:
            self._refill = True
            self._wake.set()

    def close(self) -> None:
        """Leave all sessions: the client has disconnected or is about to."""
        if self.closed:
            return
        self.closed = True
        for member in self._members.values():
            self._hub.detach(member)
        self._members.clear()
        self._wake.set()

    def cursor(self) -> str:
        """Return the client's cursor: the last seq it was given of each session."""
        seen = [(member, member.since if member.seq is None else member.seq) for member in self._members.values()]
        pairs = [(member.name, seq) for member, seq in seen if seq is not None]
        owed = [(short_id(name), seq) for name, seq in self._owed.items() if name not in self._members]
        newest, seq = self._newest
        if newest > max(self._members, default=""):
            pairs.insert(0, (short_id(newest), seq))
        return write_cursor(pairs + owed)

    def _attach(self, session_id: str, since: int | None) -> bool:
        """Register for a session, and let it be shown; return False without room."""
        if self.closed:  # while the list was read: nothing would ever detach it
            return False
        if len(self._members) >= self._most:
            self._note_more(True)
            return False
        member = Member(session_id, self, since)
        self._members[session_id] = member
        self._due[session_id] = since
        member.confirmed = self._hub.attach(member)
        return True

    def _note_more(self, more: bool) -> None:
        if more is not self._more:
            self._more = more
            if self.line.seq is not None:  # else the first `synced` says it
                self._say_synced()

    def _say_synced(self) -> None:
        self.line.seq = 0
        self.line.put(encode(SyncedFrame(len(self._members), self._more, self._ping_seconds)))

    # -- joining -----------------------------------------------------------------------

    async def join(self, seqs: Seqs | None) -> None:
        """Read the owner's living sessions, to be shown by :meth:`run`.

        To be called when the watch is registered. ``seqs``: the client's cursor; None:
        a client that has seen nothing, and wants no past events. Raises Unavailable.
        """
        living = await self._list(seqs)
        newest = newest_seen(seqs or {})
        age_seconds = 0.0 if newest is None else max(0.0, self._database_clock.now() - time_of_id(newest))
        # Read second: a session that ends in between is in both, and counts as living.
        names = await self._reads.ended_lately(
            self.owner, created_seconds=age_seconds + ANNOUNCED_SECONDS, limit=REMEMBERED
        )
        ended = [name for name in names if name not in living and name not in self._owed and name not in self._members]
        unseen = [name for name in ended if newest is not None and name > newest][: self._most]
        self._ended |= dict.fromkeys(name for name in ended if name not in unseen)
        self._due |= dict.fromkeys(unseen, 0)
        self._ready = await self._read_due()

    async def _list(self, seqs: Seqs | None) -> list[str]:
        """Attach to the newest living sessions; let the cursor's be shown too.

        Return the living sessions.
        """
        self._owed = dict(seqs or {})
        living = await self._reads.living(self.owner, limit=self._most + 1)
        for session_id in living[: self._most]:
            if session_id not in self._members and session_id not in self._ended:
                self._attach(session_id, 0)
        for session_id in self._members:
            self._due[session_id] = None if seqs is None else seqs.get(session_id, 0)
        self._due |= self._owed
        self._note_more(len(living) > self._most)
        return living

    async def _read_due(self) -> list[tuple[str, int | None, SessionRead | None]]:
        """Return the sessions that are due as their owner sees them, oldest first.

        None: erased, or not this owner's. Raises Unavailable; all are due then.
        """
        due = dict(sorted(self._due.items()))
        members = [member for name in due if (member := self._members.get(name)) is not None]
        for member in members:
            if member.confirmed is not None:
                await self._hub.confirmation(member.confirmed)
        self._due = {name: since for name, since in self._due.items() if name not in due}
        found = await asyncio.gather(
            *(_read(self._reads, name, self._credential, since) for name, since in due.items()), return_exceptions=True
        )
        answers: list[tuple[str, int | None, SessionRead | None]] = []
        for (name, since), read in zip(due.items(), found, strict=True):
            if isinstance(read, BaseException):
                self._due = due | self._due
                raise read
            answers.append((name, since, read))
        return answers

    # -- the task ----------------------------------------------------------------------

    async def run(self) -> None:
        """Show what :meth:`join` has read, then what comes, until the client leaves."""
        try:
            await self._show(self._ready)
            self._ready = []
            if not self._due:
                self._say_synced()
            while not self.closed:
                await self._next()
        except Exception:
            log.exception("Following the sessions of owner %s failed, its client has to reconnect", self.owner[:8])
            self.line.broken(0)

    async def _next(self) -> None:
        """Do one thing that is due, or wait for the next."""
        try:
            if self._sync is not None:
                seqs, self._sync = self._sync, None
                await self._show_again(seqs)
            elif self._due:
                await self._show(await self._read_due())
                if self.line.seq is None and not self._due:
                    self._say_synced()
            elif self._refill:
                self._refill = False
                await self._fill()
            else:
                self._wake.clear()
                await self._wake.wait()
        except Unavailable as error:
            log.warning("New sessions of owner %s could not be read, retrying: %s", self.owner[:8], error.detail)
            await asyncio.sleep(RETRY_SECONDS)

    async def _fill(self) -> None:
        """Follow more sessions, now that there is room."""
        try:
            living = await self._reads.living(self.owner, limit=self._most + 1)
        except Unavailable:
            self._refill = True
            raise
        rest = [name for name in living if name not in self._members and name not in self._ended]
        room = self._most - len(self._members)
        for session_id in rest[:room]:
            self._attach(session_id, self._owed.get(session_id, 0))
        self._note_more(len(rest) > room)

    async def _show_again(self, seqs: Seqs) -> None:
        """Answer a ``sync``: show all living sessions again, with what was missed.

        While the database is unavailable there is no snapshot: a ``ping`` says that the
        connection lives, and the client goes on from where it was.
        """
        held = {name: member for name, member in self._members.items() if member.seq is not None}
        for member in held.values():
            member.hold()
        try:
            await self._list(seqs)
            ready = await self._read_due()
        except Unavailable:
            for name, member in held.items():
                self._due.pop(name, None)
                if self._members.get(name) is member and member.since is not None:
                    self._hub.resume(member, member.since)
            for name in self._owed:
                self._due.pop(name, None)
            self._owed = {}
            at = timestamp(datetime.fromtimestamp(self._database_clock.now(), UTC))
            self.line.put(encode(PingFrame(at)))
            return
        await self._show(ready)
        self._say_synced()

    async def _show(self, ready: list[tuple[str, int | None, SessionRead | None]]) -> None:
        """Show sessions in their order, as fast as the client reads."""
        for session_id, since, read in ready:
            await self.line.taken()
            if self.closed:
                return
            self._show_one(session_id, since, read)

    def _show_one(self, session_id: str, since: int | None, read: SessionRead | None) -> None:
        """Show one session as it was read; what it was sent meanwhile follows."""
        member = self._members.get(session_id)
        if session_id in self._due:
            return  # it was announced meanwhile: it is read again, and this is older
        if session_id in self._ended and member is None:
            self._owed.pop(session_id, None)
            return  # it has ended while it was read
        if read is None:
            self._show_erased(session_id, since)
            return
        session = read.session
        if member is None and not session.status.terminal:  # it lives, beyond the bound
            self._attach(session_id, since)
            return
        self._owed.pop(session_id, None)
        if member is not None:
            member.since = session.seq
        if not session.status.terminal or since is None or session.seq > since:  # else its end alone is missing
            _SNAPSHOTS.inc()
            frame = encode(SnapshotFrame(read.view, read.missed, self._ping_seconds))
            self.line.transition(session_id, frame, self.cursor)
        if self.closed or self.line.lost:
            return
        if session.status.terminal:
            self._hub.deliveries.note_shown(session)
            self.ended(session_id, session.status.value, session.seq)
        elif member is not None:
            self._hub.release(member, session)

    def _show_erased(self, session_id: str, since: int | None) -> None:
        """Name a session that is not there as ended, if the client knows it."""
        if since:
            self.ended(session_id, self._hub.recovery.probable_reason(session_id).value, since)
            return
        member = self._members.pop(session_id, None)
        if member is not None:
            self._hub.detach(member)


async def _read(reads: SessionReads, session_id: str, credential: Credential, since: int | None) -> SessionRead | None:
    """Return a session as its owner sees it; None: erased, or not this owner's."""
    try:
        return await reads.read(session_id, credential, since=since)
    except NotFound:
        return None
