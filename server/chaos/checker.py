"""Whether every promise was kept, from the records of a run alone: no I/O, no clock, no
knowledge of the server's code but the table of what may follow what.

A finding is a broken promise, never a matter of taste: a refusal that says so (429,
503, 507) is none, a client that had to come back is none. :data:`KINDS` is the whole
list.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from server.chaos.records import (
    Accepted,
    AnyRecord,
    Asked,
    Audit,
    Clock,
    Closed,
    Did,
    Fault,
    GaveUp,
    Heard,
    Listed,
    Progressed,
    Quiet,
    Refused,
    Remains,
    Result,
    Snapshot,
    Stranger,
    Transition,
    Trouble,
)
from tryon.protocol.states import TRANSITIONS, Event, Status


class Kind(StrEnum):
    """What can be wrong."""

    LOST = "lost"
    STUCK = "stuck"
    GAP = "gap"
    REPEAT = "repeat"
    STEP_BACK = "step back"
    CHANGED = "changed"
    WRONG = "wrong"
    FOREIGN = "foreign"
    REMAINS = "remains"
    DUPLICATED = "duplicated"
    STALE = "stale"
    UNSERVED = "unserved"
    ERROR = "error"


KINDS: Final[dict[Kind, str]] = {
    Kind.LOST: "an accepted session whose end a client was never shown, or that vanished unasked",
    Kind.STUCK: "a session that never ended, or stood still in one state for longer than allowed",
    Kind.GAP: "a client was shown a transition without the one before it",
    Kind.REPEAT: "a client was shown a transition that it had seen",
    Kind.STEP_BACK: "a client was shown an older state than before",
    Kind.CHANGED: "something followed a terminal event",
    Kind.WRONG: "a client was shown something else than the audit trail holds, or the audit trail contradicts itself",
    Kind.FOREIGN: "somebody else saw, or could change, a session or learn that it exists",
    Kind.REMAINS: "a file, row, key or answer of a session that was erased",
    Kind.DUPLICATED: "one upload made more than one session",
    Kind.STALE: "a connected client was shown a transition later than allowed",
    Kind.UNSERVED: "a call that was not answered, or refused for as long as somebody tried",
    Kind.ERROR: "an answer that no well-behaved client should get",
}

SLACK_SECONDS: Final = 2.0
"""How much earlier than ``expires_at`` a session may be gone: clocks, and the way
there.
"""

SHAPE_SHARE: Final = 0.003
"""By how much the shape of a result may differ from its photo's; those of two photos
differ by twice as much.
"""

HONEST_REFUSALS: Final = frozenset({0, 409, 429, 503, 507})
"""What an owner may be answered when the system is in trouble: no answer, or one that
says to try again.
"""

HIDDEN: Final = frozenset({404, 4504})
"""What a stranger is answered, whether the session exists or not."""

NO_ANSWER: Final = frozenset({0, 429, 503, 507, 1001, 1006, 1012, 4000, 4001, 4029, 4053})
"""What a stranger may be answered besides: nothing that depends on the session."""

REFUSED_OWNER: Final = frozenset({401, 403, 4500, 4501})
GONE: Final = frozenset({404, 4504, 4510})


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise. ``t``: when it showed, on the observer's clock."""

    kind: Kind
    detail: str
    session: str | None = None
    client: str | None = None
    t: float | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """One transition on one screen, seconds after its commit.

    ``stale``: the longest time that the client was connected over one connection and
    was not shown it: from the commit or, if that was later, from when it asked for the
    connection, until it was shown it or the connection was over. A poll counts from the
    first that was asked after the commit, until the next that was not answered.
    ``late``: since the commit, whatever happened in between.
    """

    stale: float
    late: float
    over: str
    fault: str
    session: str
    client: str
    status: str
    t: float


@dataclass(frozen=True, slots=True)
class Loss:
    """A connection that was lost.

    ``code``: of its close, of HTTP, or 1006; ``live``: it stood before; else it did not
    come about. Polls count as one connection for as long as they are answered.
    """

    over: str
    code: int
    live: bool


@dataclass(slots=True)
class Verdict:
    findings: list[Finding] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    sessions: int = 0
    screens: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """Sessions by how they ended: a terminal status, deleted, expired."""
    refused: Counter[str] = field(default_factory=Counter)
    """Calls by the refusal they were given: ``upload 503``."""
    losses: Counter[Loss] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    strangers: int = 0
    clocks: int = 0
    """How often the clocks were compared."""

    def count(self, kind: Kind) -> int:
        return sum(finding.kind is kind for finding in self.findings)


@dataclass(frozen=True, slots=True)
class _Span:
    """A connection from its first question to its end."""

    over: str
    asked: Sequence[float]
    end: float

    def blind(self, at: float) -> float:
        """For how long it should have shown what was committed then."""
        if self.over == "poll":
            return self.end - next((asked for asked in self.asked if asked >= at), self.end)
        return self.end - max(at, self.asked[0])


@dataclass(slots=True)
class _Screen:
    """One client's view of one session, as far as the records were read."""

    client: str
    session: str
    owner: str
    over: str
    since: int
    asked: list[float] = field(default_factory=list)
    """When it asked for the connection that it has, and for more since."""
    live: bool = False
    """Whether it was answered since."""
    spans: list[_Span] = field(default_factory=list)
    """Its earlier connections."""
    cursor: int = 0
    end: str | None = None
    """The terminal status that it was shown."""
    gone: bool = False


def check(
    records: Iterable[AnyRecord], *, stale_seconds: float = float("inf"), stuck_seconds: float = float("inf")
) -> Verdict:
    """Everything that is wrong in a run.

    ``stale_seconds``: the latest that a connected client may be shown a transition;
    ``stuck_seconds``: the longest that a session may stay in one state that is not
    terminal.
    """
    return _Checker(list(records), stale_seconds, stuck_seconds).verdict()


class _Checker:
    def __init__(self, records: Sequence[AnyRecord], stale_seconds: float, stuck_seconds: float) -> None:
        self._records = records
        self._stale_seconds = stale_seconds
        self._stuck_seconds = stuck_seconds
        self._verdict = Verdict()
        self._accepted: dict[str, Accepted] = {}
        self._audit: dict[str, dict[int, Transition]] = defaultdict(dict)
        self._seen: dict[str, dict[int, Transition]] = defaultdict(dict)
        self._screens: dict[str, _Screen] = {}
        self._delete_asked: dict[str, float] = {}
        self._delete_done: dict[str, float] = {}
        self._gone: dict[str, str] = {}
        self._fault = ""
        self._left = 0
        """People who may have made a session without learning of it."""
        clocks = [record for record in records if isinstance(record, Clock)]
        self._offset = min(clocks, key=lambda clock: clock.round_trip).offset if clocks else 0.0

    def verdict(self) -> Verdict:
        self._read_what_was_agreed()
        for record in self._records:
            self._take(record)
        self._check_audit()
        self._check_strangers()
        self._check_ends()
        self._verdict.sessions = len(self._accepted)
        self._verdict.screens = len(self._screens)
        return self._verdict

    def _found(
        self, kind: Kind, detail: str, session: str | None = None, client: str | None = None, t: float | None = None
    ) -> None:
        self._verdict.findings.append(Finding(kind, detail, session, client, t))

    # -- what is known before anything is judged ---------------------------------------

    def _read_what_was_agreed(self) -> None:
        """Accepted sessions, the audit trail and the deletions: records about them may
        come later than what they explain.
        """
        made: dict[tuple[str, str], str] = {}
        family = _Families()
        deletes: list[Did] = []
        for record in self._records:
            match record:
                case Accepted():
                    self._accepted.setdefault(record.session, record)
                    if record.retry_of is not None:
                        family.join(record.session, record.retry_of)
                    first = made.setdefault((record.owner, record.key), record.session)
                    if first != record.session:
                        self._found(Kind.DUPLICATED, f"{record.key} made {first} too", record.session, None, record.t)
                case Audit():
                    for event in record.events:
                        known = self._audit[record.session].setdefault(event.seq, event)
                        if known != event:
                            self._found(
                                Kind.WRONG, f"the audit trail itself changed: {known} became {event}", record.session
                            )
                case Did(call="delete"):
                    deletes.append(record)
                case _:
                    pass
        for record in deletes:
            for session in family.of(record.session):
                self._delete_asked[session] = min(record.t, self._delete_asked.get(session, record.t))
                if record.status == 200:
                    self._delete_done[session] = min(record.t, self._delete_done.get(session, record.t))

    # -- record by record --------------------------------------------------------------

    def _take(self, record: AnyRecord) -> None:
        match record:
            case Asked():
                self._asked(record)
            case Snapshot():
                self._snapshot(record)
            case Heard():
                self._heard(record)
            case Progressed():
                self._progressed(record)
            case Closed():
                self._closed(record)
            case Stranger():
                self._stranger(record)
            case Result():
                self._result(record)
            case Refused():
                self._refused(record)
            case GaveUp():
                self._left += record.call in _MAKING
                self._found(Kind.UNSERVED, f"{record.owner} gave up: {record.call}", None, None, record.t)
            case Listed():
                for session in record.sessions:
                    if session not in self._accepted:
                        self._found(
                            Kind.DUPLICATED, f"{record.owner} has a session it never asked for", session, None, record.t
                        )
            case Remains():
                self._found(Kind.REMAINS, f"{record.what} {record.name}", None, None, record.t)
            case Fault():
                self._fault = record.name
                self._verdict.faults[record.name] += 1
            case Trouble():
                self._found(Kind.ERROR, f"{record.who}: {record.what}", t=record.t)
            case Clock():
                self._verdict.clocks += 1
            case Accepted() | Audit() | Did() | Quiet():
                pass

    def _asked(self, record: Asked) -> None:
        screen = self._screens.get(record.client)
        if screen is None:
            screen = self._screens[record.client] = _Screen(
                record.client, record.session, record.owner, record.over, record.since
            )
        if screen.asked and record.over not in _SAME_CONNECTION:
            self._over(screen, record.t)
        if record.over != "sync":
            screen.over = record.over
        screen.live = screen.live or bool(screen.asked)  # nothing was said of the last answer: a 304
        screen.asked.append(record.t)
        if record.since > screen.cursor:
            _Findings(self, screen, record.t)(Kind.GAP, f"came back with {record.since}, was shown {screen.cursor}")
        screen.since = record.since

    def _screen_of(self, record: Snapshot | Heard | Progressed | Closed) -> _Screen | None:
        screen = self._screens.get(record.client)
        if screen is None:
            self._found(Kind.WRONG, "shown something before it asked", record.session, record.client, record.t)
        elif screen.session != record.session:
            self._found(
                Kind.FOREIGN,
                f"shown {record.session}, follows {screen.session}",
                record.session,
                record.client,
                record.t,
            )
        else:
            if isinstance(record, Snapshot | Heard):
                for path in record.pictures:
                    if record.session not in path:
                        _Findings(self, screen, record.t)(Kind.FOREIGN, f"shown a link to {path}")
            return screen
        return None

    def _snapshot(self, record: Snapshot) -> None:
        screen = self._screen_of(record)
        if screen is None:
            return
        found = _Findings(self, screen, record.t)
        screen.live = True
        accepted = self._accepted.get(screen.session)
        if accepted is not None and accepted.owner != screen.owner:
            found(Kind.FOREIGN, f"shown to {screen.owner}, owned by {accepted.owner}")
        if (erased := self._delete_done.get(screen.session)) is not None and screen.asked and screen.asked[-1] > erased:
            found(
                Kind.REMAINS,
                f"asked {screen.asked[-1] - erased:.3f} s after its deletion was confirmed, and was answered",
            )
        last = screen.since
        for event in record.missed:
            if event.seq <= last:
                found(Kind.REPEAT, f"missed {event.seq} after {last}")
            elif event.seq > last + 1:
                found(Kind.GAP, f"missed {event.seq} after {last}")
            last = max(last, event.seq)
            if event.seq > screen.cursor:
                self._sight(screen, event, record.t)
            self._compare(screen, event, record.t)
        if record.seq > last:
            found(Kind.GAP, f"a snapshot of {record.seq}, told up to {last}")
        if record.seq < max(last, screen.cursor):
            found(Kind.STEP_BACK, f"a snapshot of {record.seq} after {max(last, screen.cursor)}")
        screen.cursor = max(screen.cursor, last, record.seq)
        if screen.end is not None and record.status != screen.end:
            found(Kind.CHANGED, f"{record.status} after {screen.end}")
        known = self._known(screen.session, record.seq)
        if known is not None and known.status != record.status:
            found(Kind.WRONG, f"a snapshot says {record.status}, the audit trail {known.status} at {record.seq}")
        if record.status in _TERMINAL and screen.end is None and record.seq >= screen.cursor:
            screen.end = record.status

    def _heard(self, record: Heard) -> None:
        screen = self._screen_of(record)
        if screen is None:
            return
        found = _Findings(self, screen, record.t)
        event = record.event
        if event.seq <= screen.cursor:
            found(Kind.REPEAT, f"{event.event} {event.seq} after {screen.cursor}")
        else:
            if event.seq > screen.cursor + 1:
                found(Kind.GAP, f"{event.event} {event.seq} after {screen.cursor}")
            if screen.end is not None:
                found(Kind.CHANGED, f"{event.event} {event.seq} after {screen.end}")
            self._sight(screen, event, record.t)
        self._compare(screen, event, record.t)

    def _progressed(self, record: Progressed) -> None:
        screen = self._screen_of(record)
        if screen is not None and record.seq != screen.cursor:
            kind = Kind.GAP if record.seq > screen.cursor else Kind.STEP_BACK
            _Findings(self, screen, record.t)(kind, f"progress of {record.seq} at {screen.cursor}")

    def _closed(self, record: Closed) -> None:
        screen = self._screen_of(record)
        if screen is None:
            return
        found = _Findings(self, screen, record.t)
        if record.code in (1000, 204):
            if screen.end is None:
                found(Kind.WRONG, f"told {record.code} {record.reason} before the terminal event")
            elif record.reason not in ("", screen.end):
                found(Kind.WRONG, f"told {record.code} {record.reason} after {screen.end}")
        elif record.code in GONE:
            screen.gone = True
            self._vanished(screen, record)
        elif record.code in REFUSED_OWNER:
            found(Kind.WRONG, f"its owner was refused: {record.code} {record.reason}")
        else:
            self._verdict.losses[Loss(screen.over, record.code, screen.live)] += 1
        self._over(screen, record.t)

    def _over(self, screen: _Screen, t: float) -> None:
        """Its connection is.

        The last poll was not answered: nobody could be blind by it.
        """
        if screen.over == "poll" and screen.asked:
            *screen.asked, t = screen.asked
        if screen.asked and screen.live:
            screen.spans.append(_Span(screen.over, screen.asked, t))
        screen.live, screen.asked = False, []

    def _vanished(self, screen: _Screen, record: Closed) -> None:
        """Gone must have been asked for, or be the end of its time; and that may not
        come before its own end.
        """
        found = _Findings(self, screen, record.t)
        accepted = self._accepted.get(screen.session)
        asked = self._delete_asked.get(screen.session)
        if asked is not None and asked <= record.t:
            if record.reason == "expired" and not self._expired(accepted, record.t):
                found(Kind.WRONG, "told it expired; it was deleted")
            self._gone.setdefault(screen.session, "deleted")
        elif self._expired(accepted, record.t):
            self._gone.setdefault(screen.session, "expired")
            if screen.end is None and accepted is not None and accepted.retry_of is None:
                found(Kind.LOST, "expired before it had ended")
        else:
            found(Kind.LOST, f"told {record.code} {record.reason}, and nobody asked for it")

    def _expired(self, accepted: Accepted | None, t: float) -> bool:
        if accepted is None:
            return False
        return t + self._offset + SLACK_SECONDS >= datetime.fromisoformat(accepted.expires_at).timestamp()

    def _stranger(self, record: Stranger) -> None:
        self._verdict.strangers += 1
        who = f"{record.owner} by {record.call}: {record.answer}"
        if record.saw or 200 <= record.answer < 300:
            self._found(Kind.FOREIGN, f"seen by {who}", record.session, None, record.t)
        elif record.answer not in HIDDEN and record.answer not in NO_ANSWER:
            self._found(Kind.FOREIGN, f"told apart from an unknown one by {who}", record.session, None, record.t)

    def _may_be_gone(self, session: str, t: float) -> bool:
        asked = self._delete_asked.get(session)
        return (asked is not None and asked <= t) or self._expired(self._accepted.get(session), t)

    def _result(self, record: Result) -> None:
        there = record.status == 200 and record.bytes > 0
        if not there and not self._may_be_gone(record.session, record.t):
            detail = f"its {record.role} is a {record.status} of {record.bytes} bytes"
            self._found(Kind.WRONG, detail, record.session, None, record.t)
        elif there and record.own is not None and not _same_picture(record, record.own):
            detail = f"its {record.role} is a picture of {record.size}, its owner's photo one of {record.own}"
            self._found(Kind.FOREIGN, detail, record.session, None, record.t)

    def _refused(self, record: Refused) -> None:
        self._verdict.refused[f"{record.call} {record.status or 'no answer'}"] += 1
        self._left += record.call in _MAKING and record.status == 404
        if record.status == 404 and record.session is not None and self._may_be_gone(record.session, record.t):
            return
        if record.status not in HONEST_REFUSALS:
            self._found(
                Kind.ERROR, f"{record.owner} {record.call}: {record.status} {record.code}", None, None, record.t
            )

    def _sight(self, screen: _Screen, event: Transition, t: float) -> None:
        """A transition that is new to this screen."""
        screen.cursor = max(screen.cursor, event.seq)
        if event.status in _TERMINAL and screen.end is None:
            screen.end = event.status
        at = event.unix - self._offset
        spans = [*screen.spans, _Span(screen.over, screen.asked or [at], t)]
        stale = max(span.blind(at) for span in spans)
        sight = Sight(stale, t - at, screen.over, self._fault, screen.session, screen.client, event.status, t)
        self._verdict.sights.append(sight)
        if stale > self._stale_seconds:
            where = f"over {screen.over} after {self._fault or 'no fault'}"
            _Findings(self, screen, t)(Kind.STALE, f"{event.event} {event.seq} {stale:.1f} s late {where}")

    def _known(self, session: str, seq: int) -> Transition | None:
        return self._audit.get(session, {}).get(seq) or self._seen[session].get(seq)

    def _compare(self, screen: _Screen, event: Transition, t: float) -> None:
        """With the audit trail; where that is gone, with what others were shown."""
        known = self._known(screen.session, event.seq)
        if known is None:
            self._seen[screen.session][event.seq] = event
        elif known != event:
            _Findings(self, screen, t)(Kind.WRONG, f"shown {event}, the truth is {known}")

    # -- when all is read --------------------------------------------------------------

    def _check_audit(self) -> None:
        for session, by_seq in self._audit.items():
            for before, event in _pairs([by_seq[seq] for seq in sorted(by_seq)]):
                self._check_step(session, before, event)

    def _check_step(self, session: str, before: Transition | None, event: Transition) -> None:
        if event.seq != (before.seq if before else 0) + 1:
            self._found(Kind.WRONG, f"the audit trail has a gap before {event.seq}", session)
            return
        if before is not None and before.status in _TERMINAL:
            self._found(Kind.CHANGED, f"{before.event} was followed by {event.event}", session)
        elif event.before != (before.status if before else None) or not _allowed(event):
            self._found(Kind.WRONG, f"the audit trail holds {event} after {before}", session)
        elif before is not None and event.unix - before.unix > self._stuck_seconds:
            seconds = event.unix - before.unix
            self._found(Kind.STUCK, f"{before.status} for {seconds:.1f} s until {event.event}", session)

    def _check_strangers(self) -> None:
        """Whose answer got lost asks again by the same key until it has one: then it is
        accepted. Only who gave up, or was told in the end that there is nothing to try
        again, may have left a session that it does not know.
        """
        unknown = [session for session in self._audit if session not in self._accepted]
        if len(unknown) > self._left:
            for session in unknown:
                detail = f"nobody was told of it; {len(unknown)} are so, and {self._left} gave up"
                self._found(Kind.DUPLICATED, detail, session)

    def _check_ends(self) -> None:
        followed = defaultdict(list)
        for screen in self._screens.values():
            followed[screen.session].append(screen)
        for session in self._accepted:
            gone = self._gone.get(session) or ("deleted" if session in self._delete_done else None)
            trail = self._audit.get(session)
            end = trail[max(trail)].status if trail else None
            self._verdict.ends[gone or end or "unknown"] += 1
            if gone is None and session not in self._delete_asked:
                if trail is None:
                    self._found(Kind.LOST, "no audit trail holds it", session)
                elif end not in _TERMINAL:
                    self._found(Kind.STUCK, f"{end} at the end", session)
            if not followed[session]:
                self._found(Kind.LOST, "nobody came to follow it", session)
            for screen in followed[session]:
                if screen.end is None and not screen.gone:
                    detail = f"its client was shown {screen.cursor} at last, by {screen.over}"
                    self._found(Kind.LOST, detail, session, screen.client)
        if not self._accepted:
            self._found(Kind.UNSERVED, "not one session was accepted")


@dataclass(frozen=True, slots=True)
class _Findings:
    """Notes findings about one screen at one moment."""

    checker: _Checker
    screen: _Screen
    t: float

    def __call__(self, kind: Kind, detail: str) -> None:
        self.checker._found(kind, detail, self.screen.session, self.screen.client, self.t)


class _Families:
    """Sessions over the same photo: whoever deletes one of them deletes all."""

    def __init__(self) -> None:
        self._members: dict[str, set[str]] = {}

    def of(self, session: str) -> set[str]:
        return self._members.get(session, {session})

    def join(self, one: str, other: str) -> None:
        together = self.of(one) | self.of(other)
        for session in together:
            self._members[session] = together


_SAME_CONNECTION: Final = frozenset({"sync", "long-poll", "poll"})
"""What asks again without one that is new to the person."""

_MAKING: Final = frozenset({"upload", "retry"})
_TERMINAL: Final = frozenset(status.value for status in Status if status.terminal)
_STATUSES: Final = frozenset(Status)
_EVENTS: Final = frozenset(Event)


def _allowed(event: Transition) -> bool:
    if event.event not in _EVENTS:
        return False
    before = Status(event.before) if event.before in _STATUSES else None
    return TRANSITIONS.get((before, Event(event.event))) == event.status and (event.before is None) == (before is None)


def _same_picture(record: Result, own: tuple[int, int]) -> bool:
    """The photo as it was sent, or a result of the same shape: whole pixels of a few
    hundred.
    """
    if record.size is None:
        return False
    (width, height), (own_width, own_height) = record.size, own
    if record.role == "input":
        return record.size == own
    return abs(width / height - own_width / own_height) < SHAPE_SHARE


def _pairs(events: Sequence[Transition]) -> Iterator[tuple[Transition | None, Transition]]:
    yield from zip((None, *events), events, strict=False)
