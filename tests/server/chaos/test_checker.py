"""The checker finds every kind of broken promise in made-up histories, and nothing in
good ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.chaos.checker import check
from server.chaos.records import (
    Accepted,
    Asked,
    Audit,
    Clock,
    Closed,
    Fault,
    GaveUp,
    Heard,
    Listed,
    Progressed,
    Recorder,
    Refused,
    Remains,
    Result,
    Snapshot,
    Stranger,
    Transition,
    Trouble,
    read,
)
from server.chaos.report import report
from server.chaos.verdict import KINDS, Kind, Loss
from tests.server.chaos.stories import GOOD, LIFE_SECONDS, START, Story, completed, deleted, eventful, stamp
from tryon.protocol.states import TRANSITIONS, Event, Status

Records = list[Any]


def kinds(records: Records, **limits: float) -> set[Kind]:
    return {finding.kind for finding in check(records, **limits).findings}


def replaced(records: Records, index: int, **fields: Any) -> Records:
    return [*records[:index], msgspec.structs.replace(records[index], **fields), *records[index + 1 :]]


def where(records: Records, kind: type[Any], true: Callable[[Any], bool] = lambda record: True) -> list[int]:
    return [index for index, record in enumerate(records) if isinstance(record, kind) and true(record)]


def of_event(record: Any, **fields: Any) -> Transition:
    changed: Transition = msgspec.structs.replace(record.event, **fields)
    return changed


# -- good histories --------------------------------------------------------------------


@pytest.mark.parametrize("story", GOOD)
def test_a_good_history_has_no_findings(story: Callable[[], Story]) -> None:
    verdict = check(story().told(), stale_seconds=5, stuck_seconds=5)
    assert verdict.findings == []
    assert verdict.sessions == 1


def test_several_sessions_are_told_apart() -> None:
    records = [record for story in GOOD for record in story().told()]
    verdict = check(records)
    assert verdict.findings == []
    assert verdict.sessions == len(GOOD)
    assert verdict.ends == {"completed": 2, "cancelled": 1, "deleted": 2, "expired": 1}
    assert (verdict.strangers, dict(verdict.refused)) == (3, {"upload 503": 1})


def test_who_deletes_a_photo_deletes_its_retries() -> None:
    original = Story().shown()
    original.happens(Event.FAILED).pushed().closed(code=1000, reason="failed").now()
    again = Story(owner=original.owner, retry_of=original.session).shown()
    assert kinds([*original.told(), *again.told()]) == {Kind.LOST, Kind.STUCK}, "this one never ends"
    original.deleted(told=False)
    again.t = original.t
    again.closed(code=4510, reason="deleted")
    assert kinds([*original.told(), *again.records]) == set()


def test_an_upload_whose_answer_was_lost_is_not_doubled() -> None:
    story = completed()
    lost = Refused(t=START, owner=story.owner, call="upload", status=0)
    audit = Audit(t=START, session=story.session, events=story.truth[:1])
    assert kinds([audit, lost, lost, *story.told()]) == set(), "it is accepted when it is sent again"
    unknown = Audit(t=START, session="unknown", events=Story().truth)
    who = GaveUp(t=START, owner="x", call="upload")
    assert kinds([*completed().told(), unknown, who]) == {Kind.UNSERVED}, "its owner gave up, and may have made it"


def test_records_survive_a_file(tmp_path: Any) -> None:
    path = tmp_path / "run.jsonl"
    with path.open("wb") as file:
        record = Recorder(file)
        for each in eventful().told():
            record(each)
    with path.open("rb") as lines:
        assert list(read(lines)) == record.records
    with pytest.raises(ValueError, match="line 2"):
        list(read([path.read_bytes().splitlines()[0], b"{}"]))


# -- staleness -------------------------------------------------------------------------


def test_staleness_counts_from_the_commit_or_from_the_connection_that_showed_it() -> None:
    story = Story().shown()
    story.happens(Event.PROCESSING).now(2.0)
    story.pushed().closed()
    story.happens(Event.COMPLETED).now(30.0)
    story.shown("a", "sse").closed(code=1000, reason="completed")
    sights = check(story.told()).sights
    assert [round(sight.stale, 1) for sight in sights] == [0.0, 2.0, 0.0]
    assert [round(sight.late, 1) for sight in sights] == [0.0, 2.0, 30.0]
    assert [sight.over for sight in sights] == ["ws", "ws", "sse"]
    assert kinds(story.told(), stale_seconds=1.9) == {Kind.STALE}
    assert kinds(story.told(), stale_seconds=2.1) == set()


def test_a_sync_does_not_make_what_it_brings_fresh() -> None:
    story = Story().shown()
    story.happens(Event.FAILED).now(9.0)
    story.shown("a", "sync")
    assert kinds(story.told(), stale_seconds=5) == {Kind.STALE}


def test_a_poll_should_show_what_was_committed_when_it_was_asked() -> None:
    story = Story().shown("a", "poll")
    story.now(3.0)
    story.happens(Event.FAILED).now(2.0)  # and nobody asks
    story.shown("a", "poll")
    assert kinds(story.told(), stale_seconds=1) == set()
    story = Story().shown("a", "poll")
    blind = [Asked(t=story.t + 1 + n, client=f"{story.session}.a", owner=story.owner, session=story.session, over="poll",
                   since=1) for n in range(3)]  # fmt: skip
    story.happens(Event.FAILED).now(4.0)
    story.shown("a", "poll")
    records = sorted([*story.told(), *blind], key=lambda record: record.t)
    assert [round(sight.stale, 1) for sight in check(records).sights] == [0.0, 3.0], "since the first blind answer"


def test_a_long_poll_is_connected_all_the_time() -> None:
    story = Story().shown("a", "long-poll")
    ask = Asked(t=0, client=f"{story.session}.a", owner=story.owner, session=story.session, over="long-poll", since=1)
    story.records.append(msgspec.structs.replace(ask, t=story.now()))
    story.happens(Event.FAILED).now(25.0)  # it was told nothing, and asks again
    story.shown("a", "long-poll")
    assert kinds(story.told(), stale_seconds=20) == {Kind.STALE}


@pytest.mark.parametrize("over", ["ws", "sse", "long-poll"])
def test_a_connection_that_was_deaf_until_it_was_given_up_was_stale(over: str) -> None:
    story = Story().shown("a", over)
    story.happens(Event.FAILED).now(55.0)
    story.closed(code=1006, reason="silent").now(20.0)
    story.shown("a", over)
    assert [round(sight.stale) for sight in check(story.told()).sights] == [0, 55]
    assert kinds(story.told(), stale_seconds=5) == {Kind.STALE}


def test_what_was_missed_while_nobody_was_connected_is_late_and_not_stale() -> None:
    story = Story().shown()
    story.now(30.0)
    story.closed()
    story.happens(Event.FAILED).now(30.0)
    story.shown("a", "sse")
    assert kinds(story.told(), stale_seconds=1) == set()


def test_a_poll_that_was_answered_without_it_counts_also_if_the_next_was_refused() -> None:
    story = Story().shown("a", "poll")
    name = f"{story.session}.a"
    story.happens(Event.FAILED)
    for _ in range(2):
        ask = Asked(t=story.now(), client=name, owner=story.owner, session=story.session, over="poll", since=1)
        story.records.append(ask)
        story.now(9.0)
    story.closed(code=503).now(9.0)
    story.shown("a", "poll")
    assert [round(sight.stale) for sight in check(story.told()).sights] == [0, 9], "until it asked and was refused"
    assert kinds(story.told(), stale_seconds=5) == {Kind.STALE}


def test_lost_connections_are_told_from_those_that_did_not_come_about() -> None:
    story = Story().shown()
    story.closed(code=4000).closed(code=503)
    story.shown("a", "poll").shown("a", "poll").closed(code=503)
    assert check(story.told()).losses == {
        Loss("ws", 4000, live=True): 1,
        Loss("ws", 503, live=False): 1,
        Loss("poll", 503, live=True): 1,
    }


def test_the_clocks_are_compared_by_the_quickest_answer() -> None:
    story = completed()
    clocks: Records = [Clock(t=0, offset=-100.0, round_trip=3.0), Clock(t=0, offset=50.0, round_trip=0.001)]
    worst = max(sight.late for sight in check(clocks + story.told()).sights)
    assert worst == pytest.approx(50.0, abs=0.1)


def test_the_clocks_are_known_to_be_compared() -> None:
    clock: Records = [Clock(t=0, offset=0.0, round_trip=0.001)]
    assert "clocks were not compared" in report(check(completed().told()))
    assert "clocks were not compared" not in report(check(clock + completed().told()))


def test_a_sight_belongs_to_the_last_fault_before_it() -> None:
    records = completed().told()
    at = where(records, Heard)[1]
    faults: Records = [Fault(t=0, name="redis killed")]
    sights = check([*records[:at], *faults, *records[at:]]).sights
    assert [sight.fault for sight in sights] == ["", "", "redis killed"]


# -- bad histories: one of every kind --------------------------------------------------


def without_its_end() -> Records:
    story = Story().shown()
    story.happens(Event.PROCESSING).pushed().happens(Event.COMPLETED)
    return story.told()


def never_followed() -> Records:
    story = completed()
    return [record for record in story.told() if isinstance(record, Accepted | Audit)]


def never_audited() -> Records:
    return [record for record in completed().told() if not isinstance(record, Audit)]


def vanished() -> Records:
    story = Story().shown()
    return story.happens(Event.PROCESSING).pushed().closed(code=4510, reason="deleted").told()


def unknown_to_its_owner() -> Records:
    return Story().shown().happens(Event.CANCELLED).closed(code=4504, reason="not_found").told()


def expired_too_early() -> Records:
    return Story().shown().closed(code=4510, reason="expired").told()


def expired_before_its_end() -> Records:
    story = Story().shown()
    story.now(LIFE_SECONDS)
    return story.closed(code=4510, reason="expired").records


def never_ended() -> Records:
    return Story().shown().happens(Event.PROCESSING).pushed().told()


def stood_still() -> Records:
    story = Story().shown()
    story.happens(Event.PROCESSING).pushed().now(60)
    return story.happens(Event.FAILED).pushed().told()


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
    story = Story().shown("a", "poll")
    story.happens(Event.PROCESSING).shown("a", "poll").shown("a", "poll")
    story.happens(Event.FAILED).shown("a", "poll")
    records = story.told()
    return replaced(records, where(records, Snapshot)[2], seq=1, status="created")


def progress_of_what_is_over() -> Records:
    records = completed().told()
    return replaced(records, where(records, Progressed)[0], seq=1)


def pushed_after_its_end() -> Records:
    story = completed()
    again = Transition(4, "processing", "created", "processing", stamp(story.t))
    return [*story.told(), Heard(t=story.now(), client=f"{story.session}.a", session=story.session, event=again)]


def ended_otherwise_later() -> Records:
    story = completed().shown("a", "poll")
    at = where(story.records, Snapshot)[-1]
    return replaced(story.records, at, status="failed") + story.told()[-2:]


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
    """No audit trail is left to say who is right."""
    records = deleted().records
    at = where(records, Heard)[0]
    return replaced(records, at, event=of_event(records[at], event="requeued"))


def told_the_end_too_early() -> Records:
    story = Story().shown().closed(code=1000, reason="completed")
    return story.shown().happens(Event.FAILED).pushed().told()


def told_another_end() -> Records:
    records = completed().told()
    return replaced(records, where(records, Closed)[0], reason="failed")


def its_owner_is_refused() -> Records:
    story = Story().shown().closed(code=4501, reason="invalid_ticket")
    return story.shown().happens(Event.FAILED).pushed().told()


def the_trail_has_a_gap() -> Records:
    records = completed().told()
    at = where(records, Audit)[0]
    return replaced(records, at, events=[records[at].events[0], records[at].events[2]])


def the_trail_does_the_impossible() -> Records:
    story = Story().shown()
    story.truth.append(Transition(2, "completed", "created", "completed", stamp(story.now())))
    return story.pushed().told()


def the_trail_was_rewritten() -> Records:
    story = completed()
    other = [*story.truth[:-1], msgspec.structs.replace(story.truth[-1], at=stamp(START + 9))]
    return [*story.told(), Audit(t=story.now(), session=story.session, events=other)]


def completed_without_a_picture() -> Records:
    story = completed()
    return [*story.told(), Result(t=story.now(), session=story.session, status=404)]


def shown_before_it_asked() -> Records:
    records = completed().told()
    del records[where(records, Asked)[0]]
    return records


def seen_by_a_stranger() -> Records:
    story = completed()
    return [*story.told(), Stranger(t=1, owner="x", session=story.session, call="get", answer=200, saw=True)]


def told_apart_by_a_stranger() -> Records:
    story = completed()
    return [*story.told(), Stranger(t=1, owner="x", session=story.session, call="retry", answer=409)]


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
    story = completed()
    result = Result(t=1, session=story.session, status=200, role="input", bytes=9, size=(160, 161), own=(160, 162))
    return [*story.told(), result]


def given_what_was_made_of_anothers_photo() -> Records:
    story = completed()
    result = Result(t=1, session=story.session, status=200, bytes=9, size=(636, 640), own=(160, 160))
    return [*story.told(), result]


def given_what_is_no_picture() -> Records:
    story = completed()
    return [*story.told(), Result(t=1, session=story.session, status=200, bytes=9, own=(160, 160))]


def told_nonsense() -> Records:
    return [*completed().told(), Trouble(t=1, who="x", what="KeyError('type')")]


def something_remains() -> Records:
    return [*completed().told(), Remains(t=1, what="file", name="inputs/1.jpg")]


def answered_after_its_deletion() -> Records:
    story = completed().deleted(told=False)
    return story.shown("b", "poll").records


def made_twice() -> Records:
    story = completed()
    accepted = story.records[0]
    other = completed()
    return [*story.told(), *replaced(other.told(), 0, owner=story.owner, key=accepted.key)]


def listed_but_never_made() -> Records:
    story = completed()
    return [*story.told(), Listed(t=1, owner=story.owner, sessions=[story.session, "another"])]


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
    story = completed()
    return [*story.told(), Refused(t=story.t, owner=story.owner, call="history", status=404, session=story.session)]


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


@pytest.mark.parametrize("history", BAD, ids=lambda history: history.__name__)
def test_a_bad_history_is_found(history: Callable[[], Records]) -> None:
    assert BAD[history] in kinds(history(), stuck_seconds=30), check(history()).findings


def test_every_kind_but_staleness_has_a_bad_history_here() -> None:
    assert set(BAD.values()) | {Kind.STALE} == set(KINDS) == set(Kind)


def test_what_is_right_is_not_counted_among_the_wrong() -> None:
    """Most bad histories have exactly their own kind of finding; those with a
    consequence are named here.
    """
    consequences = {
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
    for history, more in consequences.items():
        assert kinds(history(), stuck_seconds=30) == {BAD[history]} | more, history.__name__


# -- any history -----------------------------------------------------------------------


@st.composite
def good_histories(draw: st.DrawFn) -> Story:
    """Any walk through the table of states, watched by up to three clients that come
    and go over any transport.
    """
    story = Story().shown("a", draw(st.sampled_from(["ws", "sse", "long-poll", "poll"])))
    for _ in range(draw(st.integers(0, 12))):
        client = draw(st.sampled_from("abc"))
        allowed = [event for before, event in TRANSITIONS if before == story.status]
        step = draw(st.sampled_from(["happens", "shown", "pushed", "progress", "closed"]))
        known = f"{story.session}.{client}" in story.clients
        if step == "happens" and allowed:
            story.happens(draw(st.sampled_from(allowed)))
        elif step == "shown" or not known:
            story.shown(client, draw(st.sampled_from(["ws", "sse", "long-poll", "poll", "sync"])) if known else "ws")
        elif step == "pushed":
            story.pushed(client)
        elif step == "progress":
            story.progress(client)
        else:
            story.closed(client, draw(st.sampled_from([1006, 1012, 4000, 4002, 4053])))
    while not Status(story.status).terminal:
        story.happens(draw(st.sampled_from([event for before, event in TRANSITIONS if before == story.status])))
    for name in story.clients:
        client = name.partition(".")[2]
        story.pushed(client) if draw(st.booleans()) else story.shown(client)
        story.closed(client, 1000, story.status)
    return story


@given(good_histories())
@settings(max_examples=200, deadline=None)
def test_any_good_history_has_no_findings(story: Story) -> None:
    assert check(story.told(), stale_seconds=5, stuck_seconds=5).findings == []


def dropped(records: Records, at: int) -> Records:
    return [*records[:at], *records[at + 1 :]]


def doubled(records: Records, at: int) -> Records:
    return [*records[: at + 1], *records[at:]]


def falsified(records: Records, at: int) -> Records:
    return replaced(records, at, event=of_event(records[at], at=stamp(START + 77)))


def skipped(records: Records, at: int) -> Records:
    return replaced(records, at, event=of_event(records[at], seq=records[at].event.seq + 1))


def misdirected(records: Records, at: int) -> Records:
    return replaced(records, at, session="another")


def ahead(records: Records, at: int) -> Records:
    return replaced(records, at, seq=records[at].seq + 1)


def behind(records: Records, at: int) -> Records:
    return replaced(records, at, seq=records[at].seq - 1)


def cut_short(records: Records, at: int) -> Records:
    return replaced(records, at, events=records[at].events[:-1])


def continued(records: Records, at: int) -> Records:
    events = records[at].events
    more = Transition(len(events) + 1, "failed", "created", "failed", stamp(START))
    return replaced(records, at, events=[*events, more])


def told_too_early(records: Records, at: int) -> Records:
    end = Closed(t=1, client=records[at].client, session=records[at].session, code=1000)
    return [*records[:at], end, *records[at:]]


def erased(records: Records, at: int) -> Records:
    return replaced(records, at, code=4510, reason="deleted")


SPOILERS: list[tuple[Callable[[Records, int], Records], type[Any], set[Kind]]] = [
    (dropped, Heard, {Kind.GAP, Kind.LOST, Kind.WRONG}),
    (doubled, Heard, {Kind.REPEAT}),
    (falsified, Heard, {Kind.WRONG}),
    (skipped, Heard, {Kind.GAP}),
    (misdirected, Heard, {Kind.FOREIGN}),
    (misdirected, Snapshot, {Kind.FOREIGN}),
    (ahead, Snapshot, {Kind.GAP}),
    (behind, Snapshot, {Kind.STEP_BACK}),
    (cut_short, Audit, {Kind.STUCK}),
    (continued, Audit, {Kind.CHANGED}),
    (told_too_early, Heard, {Kind.WRONG}),
    (erased, Closed, {Kind.LOST}),
]


@given(good_histories(), st.data())
@settings(max_examples=400, deadline=None)
def test_any_good_history_that_is_spoilt_once_is_found(story: Story, data: st.DataObject) -> None:
    spoil, kind, expected = data.draw(st.sampled_from(SPOILERS))
    records = story.told()
    places = where(records, kind)
    if places:
        assert kinds(spoil(records, data.draw(st.sampled_from(places)))) & expected
