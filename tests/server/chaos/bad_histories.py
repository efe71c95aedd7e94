"""Histories that are wrong in one way each, and the kind of finding for each."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from server.chaos.records import (
    Accepted,
    Asked,
    Audit,
    Closed,
    GaveUp,
    Heard,
    Listed,
    Progressed,
    Refused,
    Remains,
    Result,
    Snapshot,
    Stranger,
    Transition,
    Trouble,
)
from server.chaos.verdict import Kind
from tests.server.chaos.histories import (
    LIFE_SECONDS,
    START,
    Records,
    SessionHistory,
    completed,
    deleted,
    eventful,
    of_event,
    replaced,
    stamp,
    where,
)
from tryon.protocol.states import Event


def without_its_end() -> Records:
    history = SessionHistory().shown()
    history.happens(Event.PROCESSING).pushed().happens(Event.COMPLETED)
    return history.told()


def never_followed() -> Records:
    history = completed()
    return [record for record in history.told() if isinstance(record, Accepted | Audit)]


def never_audited() -> Records:
    return [record for record in completed().told() if not isinstance(record, Audit)]


def vanished() -> Records:
    history = SessionHistory().shown()
    return history.happens(Event.PROCESSING).pushed().closed(code=4510, reason="deleted").told()


def unknown_to_its_owner() -> Records:
    return SessionHistory().shown().happens(Event.CANCELLED).closed(code=4504, reason="not_found").told()


def expired_too_early() -> Records:
    return SessionHistory().shown().closed(code=4510, reason="expired").told()


def expired_before_its_end() -> Records:
    history = SessionHistory().shown()
    history.now(LIFE_SECONDS)
    return history.closed(code=4510, reason="expired").records


def never_ended() -> Records:
    return SessionHistory().shown().happens(Event.PROCESSING).pushed().told()


def stood_still() -> Records:
    history = SessionHistory().shown()
    history.happens(Event.PROCESSING).pushed().now(60)
    return history.happens(Event.FAILED).pushed().told()


def pushed_with_a_gap() -> Records:
    records = eventful().told()
    del records[where(records, Heard)[0]]
    return records


def missed_with_a_gap() -> Records:
    records = eventful().told()
    at = where(records, Snapshot, lambda snapshot: len(snapshot.missed) > 1)[0]
    return replaced(records, at, missed=records[at].missed[1:])


def missed_without_the_last() -> Records:
    records = eventful().told()
    at = where(records, Snapshot, lambda snapshot: len(snapshot.missed) > 1)[0]
    return replaced(records, at, missed=records[at].missed[:-1])


def progress_of_what_was_not_told() -> Records:
    records = completed().told()
    return replaced(records, where(records, Progressed)[0], seq=3)


def pushed_twice() -> Records:
    records = completed().told()
    at = where(records, Heard)[0]
    return [*records[: at + 1], *records[at:]]


def missed_what_was_seen() -> Records:
    records = eventful().told()
    at = where(records, Snapshot, lambda snapshot: len(snapshot.missed) > 1)[0]
    seen = records[where(records, Snapshot)[0]].missed
    return replaced(records, at, missed=[*seen, *records[at].missed])


def counted_what_was_not_shown() -> Records:
    records = eventful().told()
    at = where(records, Asked, lambda asked: asked.over == "sse")[0]
    return replaced(records, at, since=records[at].since + 1)


def older_than_before() -> Records:
    history = SessionHistory().shown("a", "poll")
    history.happens(Event.PROCESSING).shown("a", "poll").shown("a", "poll")
    history.happens(Event.FAILED).shown("a", "poll")
    records = history.told()
    return replaced(records, where(records, Snapshot)[2], seq=1, status="created")


def progress_of_what_is_over() -> Records:
    records = completed().told()
    return replaced(records, where(records, Progressed)[0], seq=1)


def pushed_after_its_end() -> Records:
    history = completed()
    again = Transition(4, "processing", "created", "processing", stamp(history.t))
    return [
        *history.told(),
        Heard(t=history.now(), client=f"{history.session}.a", session=history.session, event=again),
    ]


def ended_otherwise_later() -> Records:
    history = completed().shown("a", "poll")
    at = where(history.records, Snapshot)[-1]
    return replaced(history.records, at, status="failed") + history.told()[-2:]


def went_on_after_its_end() -> Records:
    records = completed().told()
    at = where(records, Audit)[0]
    more = Transition(4, "requeued", "processing", "created", stamp(START))
    return replaced(records, at, events=[*records[at].events, more])


def pushed_something_else() -> Records:
    records = completed().told()
    at = where(records, Heard)[0]
    return replaced(records, at, event=of_event(records[at], at=stamp(START + 7)))


def a_snapshot_says_something_else() -> Records:
    records = completed().told()
    return replaced(records, where(records, Snapshot)[0], status="processing")


def two_screens_differ() -> Records:
    """Return a session whose screens differ, without an audit trail to decide."""
    records = deleted().records
    at = where(records, Heard)[0]
    return replaced(records, at, event=of_event(records[at], event="requeued"))


def told_the_end_too_early() -> Records:
    history = SessionHistory().shown().closed(code=1000, reason="completed")
    return history.shown().happens(Event.FAILED).pushed().told()


def told_another_end() -> Records:
    records = completed().told()
    return replaced(records, where(records, Closed)[0], reason="failed")


def its_owner_is_refused() -> Records:
    history = SessionHistory().shown().closed(code=4501, reason="invalid_ticket")
    return history.shown().happens(Event.FAILED).pushed().told()


def the_trail_has_a_gap() -> Records:
    records = completed().told()
    at = where(records, Audit)[0]
    return replaced(records, at, events=[records[at].events[0], records[at].events[2]])


def the_trail_does_the_impossible() -> Records:
    history = SessionHistory().shown()
    history.truth.append(Transition(2, "completed", "created", "completed", stamp(history.now())))
    return history.pushed().told()


def the_trail_was_rewritten() -> Records:
    history = completed()
    other = [*history.truth[:-1], msgspec.structs.replace(history.truth[-1], at=stamp(START + 9))]
    return [*history.told(), Audit(t=history.now(), session=history.session, events=other)]


def completed_without_a_picture() -> Records:
    history = completed()
    return [*history.told(), Result(t=history.now(), session=history.session, status=404)]


def shown_before_it_asked() -> Records:
    records = completed().told()
    del records[where(records, Asked)[0]]
    return records


def seen_by_a_stranger() -> Records:
    history = completed()
    return [*history.told(), Stranger(t=1, owner="x", session=history.session, call="get", answer=200, saw=True)]


def told_apart_by_a_stranger() -> Records:
    history = completed()
    return [*history.told(), Stranger(t=1, owner="x", session=history.session, call="retry", answer=409)]


def shown_another_session() -> Records:
    records = completed().told()
    return replaced(records, where(records, Heard)[0], session="another")


def shown_to_another_owner() -> Records:
    records = completed().told()
    return replaced(records, where(records, Asked)[0], owner="another")


def shown_a_link_to_anothers_picture() -> Records:
    records = completed().told()
    return replaced(records, where(records, Snapshot)[0], pictures=["/api/tryon/files/inputs/another-image.jpg"])


def pushed_a_link_to_anothers_picture() -> Records:
    records = completed().told()
    return replaced(records, where(records, Heard)[1], pictures=["/api/tryon/files/outputs/another-1.jpg"])


def given_anothers_photo() -> Records:
    history = completed()
    result = Result(t=1, session=history.session, status=200, role="input", bytes=9, size=(160, 161), own=(160, 162))
    return [*history.told(), result]


def given_what_was_made_of_anothers_photo() -> Records:
    history = completed()
    result = Result(t=1, session=history.session, status=200, bytes=9, size=(636, 640), own=(160, 160))
    return [*history.told(), result]


def given_what_is_no_picture() -> Records:
    history = completed()
    return [*history.told(), Result(t=1, session=history.session, status=200, bytes=9, own=(160, 160))]


def told_nonsense() -> Records:
    return [*completed().told(), Trouble(t=1, who="x", what="KeyError('type')")]


def something_remains() -> Records:
    return [*completed().told(), Remains(t=1, what="file", name="inputs/1.jpg")]


def answered_after_its_deletion() -> Records:
    history = completed().deleted(told=False)
    return history.shown("b", "poll").records


def made_twice() -> Records:
    history = completed()
    accepted = history.records[0]
    other = completed()
    return [*history.told(), *replaced(other.told(), 0, owner=history.owner, key=accepted.key)]


def listed_but_never_made() -> Records:
    history = completed()
    return [*history.told(), Listed(t=1, owner=history.owner, sessions=[history.session, "another"])]


def made_behind_the_back_of_all() -> Records:
    """Two of one upload, and its owner never asked for its list."""
    other = completed()
    return [*completed().told(), Audit(t=other.now(), session=other.session, events=other.truth)]


def given_up() -> Records:
    return [*completed().told(), GaveUp(t=1, owner="x", call="upload")]


def nothing_at_all() -> Records:
    return []


def an_internal_error() -> Records:
    return [*completed().told(), Refused(t=1, owner="x", call="upload", status=500)]


def not_found_by_its_owner() -> Records:
    history = completed()
    return [
        *history.told(),
        Refused(t=history.t, owner=history.owner, call="history", status=404, session=history.session),
    ]


BAD: dict[Callable[[], Records], Kind] = {
    without_its_end: Kind.LOST,
    never_followed: Kind.LOST,
    never_audited: Kind.LOST,
    vanished: Kind.LOST,
    unknown_to_its_owner: Kind.LOST,
    expired_too_early: Kind.LOST,
    expired_before_its_end: Kind.LOST,
    never_ended: Kind.STUCK,
    stood_still: Kind.STUCK,
    pushed_with_a_gap: Kind.GAP,
    missed_with_a_gap: Kind.GAP,
    missed_without_the_last: Kind.GAP,
    progress_of_what_was_not_told: Kind.GAP,
    pushed_twice: Kind.REPEAT,
    missed_what_was_seen: Kind.REPEAT,
    counted_what_was_not_shown: Kind.GAP,
    older_than_before: Kind.STEP_BACK,
    progress_of_what_is_over: Kind.STEP_BACK,
    pushed_after_its_end: Kind.CHANGED,
    ended_otherwise_later: Kind.CHANGED,
    went_on_after_its_end: Kind.CHANGED,
    pushed_something_else: Kind.WRONG,
    a_snapshot_says_something_else: Kind.WRONG,
    two_screens_differ: Kind.WRONG,
    told_the_end_too_early: Kind.WRONG,
    told_another_end: Kind.WRONG,
    its_owner_is_refused: Kind.WRONG,
    the_trail_has_a_gap: Kind.WRONG,
    the_trail_does_the_impossible: Kind.WRONG,
    the_trail_was_rewritten: Kind.WRONG,
    completed_without_a_picture: Kind.WRONG,
    shown_before_it_asked: Kind.WRONG,
    seen_by_a_stranger: Kind.FOREIGN,
    told_apart_by_a_stranger: Kind.FOREIGN,
    shown_another_session: Kind.FOREIGN,
    shown_to_another_owner: Kind.FOREIGN,
    shown_a_link_to_anothers_picture: Kind.FOREIGN,
    pushed_a_link_to_anothers_picture: Kind.FOREIGN,
    given_anothers_photo: Kind.FOREIGN,
    given_what_was_made_of_anothers_photo: Kind.FOREIGN,
    given_what_is_no_picture: Kind.FOREIGN,
    told_nonsense: Kind.ERROR,
    something_remains: Kind.REMAINS,
    answered_after_its_deletion: Kind.REMAINS,
    made_twice: Kind.DUPLICATED,
    listed_but_never_made: Kind.DUPLICATED,
    made_behind_the_back_of_all: Kind.DUPLICATED,
    given_up: Kind.UNSERVED,
    nothing_at_all: Kind.UNSERVED,
    an_internal_error: Kind.ERROR,
    not_found_by_its_owner: Kind.ERROR,
}

CONSEQUENCES: dict[Callable[[], Records], set[Kind]] = {
    pushed_something_else: set(),
    without_its_end: set(),
    never_followed: set(),
    vanished: {Kind.STUCK},
    expired_too_early: {Kind.STUCK},
    ended_otherwise_later: {Kind.WRONG},
    shown_before_it_asked: {Kind.LOST, Kind.WRONG},
    shown_another_session: {Kind.GAP, Kind.FOREIGN},
    older_than_before: set(),
}
"""Further kinds of finding that follow from the first; none, where it stands alone."""
