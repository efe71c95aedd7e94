"""The judgement of what screens were shown, frame by frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from server.chaos import rules
from server.chaos.facts import Facts
from server.chaos.records import Asked, Closed, Heard, Progressed, Snapshot, Transition
from server.chaos.verdict import Kind, Loss, Sight, Verdict

_SAME_CONNECTION: Final = frozenset({"sync", "long-poll", "poll"})
"""Requests that open no new connection."""


@dataclass(frozen=True, slots=True)
class Span:
    """A connection from its first request to its end."""

    over: str
    asked: Sequence[float]
    end: float

    def blind_seconds(self, at: float) -> float:
        """Return how long it should have shown what was committed at ``at``."""
        if self.over == "poll":
            return self.end - next((asked for asked in self.asked if asked >= at), self.end)
        return self.end - max(at, self.asked[0])


@dataclass(slots=True)
class ScreenHistory:
    """One screen, as far as the records were read."""

    client: str
    session: str
    owner: str
    over: str
    since: int
    asked: list[float] = field(default_factory=list)
    """Times of the request for the present connection, and of those over it since."""
    live: bool = False
    """Whether it was answered since."""
    spans: list[Span] = field(default_factory=list)
    """Its earlier connections."""
    cursor: int = 0
    end: str | None = None
    """The terminal status that it was shown."""
    gone: bool = False

    def disconnect(self, t: float) -> None:
        """End the connection at ``t``.

        The last poll was not answered, so it cannot have hidden anything.
        """
        if self.over == "poll" and self.asked:
            *self.asked, t = self.asked
        if self.asked and self.live:
            self.spans.append(Span(self.over, self.asked, t))
        self.live, self.asked = False, []

    def stale_seconds(self, at: float, t: float) -> float:
        """Return the longest time that a connection held back its state at ``t``."""
        spans = [*self.spans, Span(self.over, self.asked or [at], t)]
        return max(span.blind_seconds(at) for span in spans)


class Screens:
    """Every screen of a run.

    ``fault``: name of the last fault. ``gone``: sessions that a screen saw vanish, with
    the reason.
    """

    def __init__(self, facts: Facts, verdict: Verdict, stale_seconds: float) -> None:
        """Begin without screens.

        ``stale_seconds``: maximum delay until a connected client sees a transition.
        """
        self.fault = ""
        self.gone: dict[str, str] = {}
        self._facts = facts
        self._verdict = verdict
        self._stale_seconds = stale_seconds
        self._screens: dict[str, ScreenHistory] = {}
        self._seen: dict[str, dict[int, Transition]] = defaultdict(dict)

    def __repr__(self) -> str:
        return f"<Screens {len(self._screens)}>"

    def __len__(self) -> int:
        return len(self._screens)

    def __iter__(self) -> Iterator[ScreenHistory]:
        return iter(self._screens.values())

    def asked(self, record: Asked) -> None:
        """Judge a request by the cursor that it names."""
        screen = self._screens.get(record.client)
        if screen is None:
            screen = ScreenHistory(record.client, record.session, record.owner, record.over, record.since)
            self._screens[record.client] = screen
        if screen.asked and record.over not in _SAME_CONNECTION:
            screen.disconnect(record.t)
        if record.over != "sync":
            screen.over = record.over
        screen.live = screen.live or bool(screen.asked)  # a 304 leaves no record of its own
        screen.asked.append(record.t)
        if record.since > screen.cursor:
            self._found(Kind.GAP, f"came back with {record.since}, was shown {screen.cursor}", screen, record.t)
        screen.since = record.since

    def snapshot(self, record: Snapshot) -> None:
        """Judge a snapshot, and the transitions that it was missed with."""
        screen = self._screen_of(record)
        if screen is None:
            return
        screen.live = True
        self._check_links(record.pictures, screen, record.t)
        self._check_access(screen, record.t)
        last = self._check_missed(screen, record)
        if record.seq > last:
            self._found(Kind.GAP, f"a snapshot of {record.seq}, shown up to {last}", screen, record.t)
        if record.seq < max(last, screen.cursor):
            newest = max(last, screen.cursor)
            self._found(Kind.STEP_BACK, f"a snapshot of {record.seq} after {newest}", screen, record.t)
        screen.cursor = max(screen.cursor, last, record.seq)
        if screen.end is not None and record.status != screen.end:
            self._found(Kind.CHANGED, f"{record.status} after {screen.end}", screen, record.t)
        known = self._known(screen.session, record.seq)
        if known is not None and known.status != record.status:
            detail = f"a snapshot says {record.status}, the audit trail {known.status} at {record.seq}"
            self._found(Kind.WRONG, detail, screen, record.t)
        if record.status in rules.TERMINAL and screen.end is None and record.seq >= screen.cursor:
            screen.end = record.status

    def heard(self, record: Heard) -> None:
        """Judge a pushed transition."""
        screen = self._screen_of(record)
        if screen is None:
            return
        self._check_links(record.pictures, screen, record.t)
        event = record.event
        if event.seq <= screen.cursor:
            self._found(Kind.REPEAT, f"{event.event} {event.seq} after {screen.cursor}", screen, record.t)
        else:
            if event.seq > screen.cursor + 1:
                self._found(Kind.GAP, f"{event.event} {event.seq} after {screen.cursor}", screen, record.t)
            if screen.end is not None:
                self._found(Kind.CHANGED, f"{event.event} {event.seq} after {screen.end}", screen, record.t)
            self._note_sight(screen, event, record.t)
        self._compare(screen, event, record.t)

    def progressed(self, record: Progressed) -> None:
        """Judge progress by the transition that it belongs to."""
        screen = self._screen_of(record)
        if screen is not None and record.seq != screen.cursor:
            kind = Kind.GAP if record.seq > screen.cursor else Kind.STEP_BACK
            self._found(kind, f"progress of {record.seq} at {screen.cursor}", screen, record.t)

    def closed(self, record: Closed) -> None:
        """Judge the end of a connection by its code and reason."""
        screen = self._screen_of(record)
        if screen is None:
            return
        said = f"{record.code} {record.reason}"
        if record.code in rules.DELIVERED:
            if screen.end is None:
                self._found(Kind.WRONG, f"closed with {said} before the terminal event", screen, record.t)
            elif record.reason not in ("", screen.end):
                self._found(Kind.WRONG, f"closed with {said} after {screen.end}", screen, record.t)
        elif record.code in rules.GONE:
            screen.gone = True
            self._check_vanished(screen, record)
        elif record.code in rules.REFUSED_OWNER:
            self._found(Kind.WRONG, f"its owner was refused: {said}", screen, record.t)
        else:
            self._verdict.losses[Loss(screen.over, record.code, screen.live)] += 1
        screen.disconnect(record.t)

    # -- one record --------------------------------------------------------------------

    def _screen_of(self, record: Snapshot | Heard | Progressed | Closed) -> ScreenHistory | None:
        """Return the screen of a record; None, and a finding, if it is not its own."""
        screen = self._screens.get(record.client)
        if screen is None:
            detail = "shown something before it asked"
            self._verdict.found(Kind.WRONG, detail, record.session, record.client, record.t)
        elif screen.session != record.session:
            detail = f"shown {record.session}, follows {screen.session}"
            self._verdict.found(Kind.FOREIGN, detail, record.session, record.client, record.t)
        else:
            return screen
        return None

    def _found(self, kind: Kind, detail: str, screen: ScreenHistory, t: float) -> None:
        self._verdict.found(kind, detail, screen.session, screen.client, t)

    def _check_links(self, paths: Sequence[str], screen: ScreenHistory, t: float) -> None:
        for path in paths:
            if screen.session not in path:
                self._found(Kind.FOREIGN, f"shown a link to {path}", screen, t)

    def _check_access(self, screen: ScreenHistory, t: float) -> None:
        """Judge whether this screen may be shown its session at all."""
        accepted = self._facts.accepted.get(screen.session)
        if accepted is not None and accepted.owner != screen.owner:
            self._found(Kind.FOREIGN, f"shown to {screen.owner}, owned by {accepted.owner}", screen, t)
        erased = self._facts.delete_done.get(screen.session)
        if erased is not None and screen.asked and screen.asked[-1] > erased:
            late = screen.asked[-1] - erased
            detail = f"asked {late:.3f} s after its deletion was confirmed, and was answered"
            self._found(Kind.REMAINS, detail, screen, t)

    def _check_missed(self, screen: ScreenHistory, record: Snapshot) -> int:
        """Judge the transitions that came with a snapshot; return the last seq."""
        last = screen.since
        for event in record.missed:
            if event.seq <= last:
                self._found(Kind.REPEAT, f"missed {event.seq} after {last}", screen, record.t)
            elif event.seq > last + 1:
                self._found(Kind.GAP, f"missed {event.seq} after {last}", screen, record.t)
            last = max(last, event.seq)
            if event.seq > screen.cursor:
                self._note_sight(screen, event, record.t)
            self._compare(screen, event, record.t)
        return last

    def _check_vanished(self, screen: ScreenHistory, record: Closed) -> None:
        """Judge whether a session was erased by request, or after its time."""
        session = screen.session
        expired = self._facts.has_expired(session, record.t)
        if self._facts.was_deleted(session, record.t):
            if record.reason == "expired" and not expired:
                self._found(Kind.WRONG, "said to be expired; it was deleted", screen, record.t)
            self.gone.setdefault(session, "deleted")
        elif expired:
            self.gone.setdefault(session, "expired")
            accepted = self._facts.accepted.get(session)
            if screen.end is None and accepted is not None and accepted.retry_of is None:
                self._found(Kind.LOST, "expired before it had ended", screen, record.t)
        else:
            detail = f"closed with {record.code} {record.reason}, and its deletion was not requested"
            self._found(Kind.LOST, detail, screen, record.t)

    def _note_sight(self, screen: ScreenHistory, event: Transition, t: float) -> None:
        """Count a transition that is new to this screen, and judge its staleness."""
        screen.cursor = max(screen.cursor, event.seq)
        if event.status in rules.TERMINAL and screen.end is None:
            screen.end = event.status
        at = event.unix - self._facts.offset
        stale = screen.stale_seconds(at, t)
        self._verdict.sights.append(
            Sight(stale, t - at, screen.over, self.fault, screen.session, screen.client, event.status, t)
        )
        if stale > self._stale_seconds:
            where = f"over {screen.over} after {self.fault or 'no fault'}"
            self._found(Kind.STALE, f"{event.event} {event.seq} {stale:.1f} s late {where}", screen, t)

    def _known(self, session: str, seq: int) -> Transition | None:
        return self._facts.event(session, seq) or self._seen[session].get(seq)

    def _compare(self, screen: ScreenHistory, event: Transition, t: float) -> None:
        """Compare a transition with the audit trail, or with other screens."""
        known = self._known(screen.session, event.seq)
        if known is None:
            self._seen[screen.session][event.seq] = event
        elif known != event:
            self._found(Kind.WRONG, f"shown {event}, the truth is {known}", screen, t)
