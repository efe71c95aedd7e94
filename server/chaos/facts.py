"""The facts about the sessions of a run, known before any screen is judged.

Accepted sessions, the audit trail and the deletions are collected first: a record about
them may come later than what it explains.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from server.chaos.records import Accepted, AnyRecord, Audit, Clock, Did, Transition
from server.chaos.verdict import Kind, Verdict

SLACK_SECONDS: Final = 2.0
"""How much earlier than ``expires_at`` a session may be gone: clocks, and the way
there.
"""


class Facts:
    """The agreed history of a run.

    ``accepted``: by session. ``audit``: transitions by session and seq.
    ``delete_asked`` and ``delete_done``: when the deletion of a session, or of another
    one with the same photo, was first requested and confirmed. ``offset``: seconds by
    which the server's clock is ahead of the observer's.
    """

    def __init__(self, records: Iterable[AnyRecord], verdict: Verdict) -> None:
        """Read the records once; contradictions become findings."""
        self.accepted: dict[str, Accepted] = {}
        self.audit: dict[str, dict[int, Transition]] = defaultdict(dict)
        self.delete_asked: dict[str, float] = {}
        self.delete_done: dict[str, float] = {}
        self.offset = 0.0
        self._verdict = verdict
        self._made: dict[tuple[str, str], str] = {}
        self._read(records)

    def __repr__(self) -> str:
        return f"<Facts {len(self.accepted)} accepted, {len(self.audit)} trails>"

    def _read(self, records: Iterable[AnyRecord]) -> None:
        families = _Families()
        deletes: list[Did] = []
        clocks: list[Clock] = []
        for record in records:
            match record:
                case Accepted():
                    self._read_accepted(record, families)
                case Audit():
                    self._read_trail(record)
                case Did(call="delete"):
                    deletes.append(record)
                case Clock():
                    clocks.append(record)
                case _:
                    pass
        for record in deletes:
            for session in families.of(record.session):
                self.delete_asked[session] = min(record.t, self.delete_asked.get(session, record.t))
                if record.status == 200:
                    self.delete_done[session] = min(record.t, self.delete_done.get(session, record.t))
        if clocks:
            self.offset = min(clocks, key=lambda clock: clock.round_trip).offset

    def _read_accepted(self, record: Accepted, families: _Families) -> None:
        self.accepted.setdefault(record.session, record)
        if record.retry_of is not None:
            families.join(record.session, record.retry_of)
        first = self._made.setdefault((record.owner, record.key), record.session)
        if first != record.session:
            self._verdict.found(Kind.DUPLICATED, f"{record.key} made {first} too", record.session, None, record.t)

    def _read_trail(self, record: Audit) -> None:
        for event in record.events:
            known = self.audit[record.session].setdefault(event.seq, event)
            if known != event:
                detail = f"the audit trail itself changed: {known} became {event}"
                self._verdict.found(Kind.WRONG, detail, record.session)

    def event(self, session: str, seq: int) -> Transition | None:
        """Return a transition from the audit trail, None if it is not there."""
        return self.audit[session].get(seq) if session in self.audit else None

    def was_deleted(self, session: str, t: float) -> bool:
        """Return whether a deletion was requested by ``t``."""
        asked = self.delete_asked.get(session)
        return asked is not None and asked <= t

    def has_expired(self, session: str, t: float) -> bool:
        """Return whether a session's time may be over at ``t``."""
        accepted = self.accepted.get(session)
        if accepted is None:
            return False
        return t + self.offset + SLACK_SECONDS >= datetime.fromisoformat(accepted.expires_at).timestamp()

    def may_be_gone(self, session: str, t: float) -> bool:
        """Return whether a session may be erased at ``t``."""
        return self.was_deleted(session, t) or self.has_expired(session, t)


class _Families:
    """Sessions over the same photo: deleting one of them deletes all."""

    def __init__(self) -> None:
        self._members: dict[str, set[str]] = {}

    def __repr__(self) -> str:
        return f"<_Families of {len(self._members)} sessions>"

    def of(self, session: str) -> set[str]:
        """Return the sessions with the same photo, this one included."""
        return self._members.get(session, {session})

    def join(self, one: str, other: str) -> None:
        """Note that two sessions have the same photo."""
        together = self.of(one) | self.of(other)
        for session in together:
            self._members[session] = together
