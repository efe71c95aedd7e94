"""The checker: whether every promise was kept, from the records of a run alone.

No I/O, no clock, no knowledge of the product's code. A finding is a broken promise,
never a matter of taste: a refusal that says so (429, 503, 507) is none, and neither is
a reconnect. :data:`~server.chaos.verdict.KINDS` is the whole list.

:class:`~server.chaos.facts.Facts` reads all records first; then each record is judged
in turn, by :class:`~server.chaos.screens.Screens` or
:class:`~server.chaos.answers.Answers`; the audit trail and the ends come last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from server.chaos import rules
from server.chaos.answers import Answers
from server.chaos.facts import Facts
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
from server.chaos.screens import ScreenHistory, Screens
from server.chaos.verdict import Kind, Verdict


def check(
    records: Iterable[AnyRecord], *, stale_seconds: float = float("inf"), stuck_seconds: float = float("inf")
) -> Verdict:
    """Return everything that is wrong in a run, and its figures.

    ``stale_seconds``: maximum delay until a connected client is shown a transition;
    ``stuck_seconds``: maximum time that a session may stay in one state that is not
    terminal.
    """
    history, verdict = list(records), Verdict()
    facts = Facts(history, verdict)
    screens, answers = Screens(facts, verdict, stale_seconds), Answers(facts, verdict)
    for record in history:
        _judge(record, screens, answers, verdict)
    for session, by_seq in facts.audit.items():
        _check_trail(session, [by_seq[seq] for seq in sorted(by_seq)], stuck_seconds, verdict)
    _check_unknown_sessions(facts, answers.abandoned, verdict)
    _check_ends(facts, screens, verdict)
    verdict.sessions, verdict.screens = len(facts.accepted), len(screens)
    return verdict


def _judge(record: AnyRecord, screens: Screens, answers: Answers, verdict: Verdict) -> None:
    match record:
        case Asked():
            screens.asked(record)
        case Snapshot():
            screens.snapshot(record)
        case Heard():
            screens.heard(record)
        case Progressed():
            screens.progressed(record)
        case Closed():
            screens.closed(record)
        case Stranger():
            answers.stranger(record)
        case Result():
            answers.result(record)
        case Refused():
            answers.refused(record)
        case GaveUp():
            answers.gave_up(record)
        case Listed():
            answers.listed(record)
        case Remains():
            verdict.found(Kind.REMAINS, f"{record.what} {record.name}", None, None, record.t)
        case Trouble():
            verdict.found(Kind.ERROR, f"{record.who}: {record.what}", t=record.t)
        case Fault():
            screens.fault = record.name
            verdict.faults[record.name] += 1
        case Clock():
            verdict.clocks += 1
        case Accepted() | Audit() | Did() | Quiet():
            pass


def _check_trail(session: str, events: list[Transition], stuck_seconds: float, verdict: Verdict) -> None:
    """Judge whether each transition follows from the one before it."""
    for before, event in zip((None, *events), events, strict=False):
        if event.seq != (before.seq if before else 0) + 1:
            verdict.found(Kind.WRONG, f"the audit trail has a gap before {event.seq}", session)
        elif before is not None and before.status in rules.TERMINAL:
            verdict.found(Kind.CHANGED, f"{before.event} was followed by {event.event}", session)
        elif (
            event.before != (before.status if before else None)
            or (event.before, event.event, event.status) not in rules.TRANSITIONS
        ):
            verdict.found(Kind.WRONG, f"the audit trail holds {event} after {before}", session)
        elif before is not None and event.unix - before.unix > stuck_seconds:
            seconds = event.unix - before.unix
            verdict.found(Kind.STUCK, f"{before.status} for {seconds:.1f} s until {event.event}", session)


def _check_unknown_sessions(facts: Facts, abandoned: int, verdict: Verdict) -> None:
    """Judge whether sessions exist that no owner was given.

    An owner whose answer was lost repeats the call with the same key until it has one,
    so only an abandoned call may leave a session that its owner does not know.
    """
    unknown = [session for session in facts.audit if session not in facts.accepted]
    if len(unknown) > abandoned:
        for session in unknown:
            detail = f"no owner was given it; {len(unknown)} are so, and {abandoned} calls were abandoned"
            verdict.found(Kind.DUPLICATED, detail, session)


def _check_ends(facts: Facts, screens: Screens, verdict: Verdict) -> None:
    """Judge whether each accepted session ended, and was shown to end."""
    followed: dict[str, list[ScreenHistory]] = defaultdict(list)
    for screen in screens:
        followed[screen.session].append(screen)
    for session in facts.accepted:
        gone = screens.gone.get(session) or ("deleted" if session in facts.delete_done else None)
        trail = facts.audit.get(session)
        end = trail[max(trail)].status if trail else None
        verdict.ends[gone or end or "unknown"] += 1
        if gone is None and session not in facts.delete_asked:
            if trail is None:
                verdict.found(Kind.LOST, "no audit trail holds it", session)
            elif end not in rules.TERMINAL:
                verdict.found(Kind.STUCK, f"{end} at the end", session)
        if not followed[session]:
            verdict.found(Kind.LOST, "no client followed it", session)
        for screen in followed[session]:
            if screen.end is None and not screen.gone:
                detail = f"its client was last shown {screen.cursor}, over {screen.over}"
                verdict.found(Kind.LOST, detail, session, screen.client)
    if not facts.accepted:
        verdict.found(Kind.UNSERVED, "not one session was accepted")
