"""The checker finds every kind of broken promise, and nothing in good histories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.chaos.checker import check
from server.chaos.records import (
    Audit,
    Closed,
    GaveUp,
    Heard,
    Recorder,
    Refused,
    Snapshot,
    Transition,
    read,
)
from server.chaos.verdict import KINDS, Kind
from tests.server.chaos.bad_histories import BAD, CONSEQUENCES
from tests.server.chaos.histories import (
    GOOD,
    START,
    Records,
    SessionHistory,
    completed,
    eventful,
    kinds,
    of_event,
    replaced,
    stamp,
    where,
)
from tryon.protocol.states import TRANSITIONS, Event, Status

# -- good histories --------------------------------------------------------------------


@pytest.mark.parametrize("history", GOOD)
def test_good_history_has_no_findings(history: Callable[[], SessionHistory]) -> None:
    """Find nothing in a history without a fault."""
    verdict = check(history().told(), stale_seconds=5, stuck_seconds=5)
    assert verdict.findings == []
    assert verdict.sessions == 1


def test_sessions_are_judged_separately() -> None:
    """Find nothing where several good histories are mixed."""
    records = [record for history in GOOD for record in history().told()]
    verdict = check(records)
    assert verdict.findings == []
    assert verdict.sessions == len(GOOD)
    assert verdict.ends == {"completed": 2, "cancelled": 1, "deleted": 2, "expired": 1}
    assert (verdict.strangers, dict(verdict.refused)) == (3, {"upload 503": 1})


def test_deletion_covers_retries_of_the_photo() -> None:
    """Accept that a deletion erases every session over the same photo."""
    original = SessionHistory().shown()
    original.happens(Event.FAILED).pushed().closed(code=1000, reason="failed").now()
    again = SessionHistory(owner=original.owner, retry_of=original.session).shown()
    assert kinds([*original.told(), *again.told()]) == {Kind.LOST, Kind.STUCK}, "this one never ends"
    original.deleted(told=False)
    again.t = original.t
    again.closed(code=4510, reason="deleted")
    assert kinds([*original.told(), *again.records]) == set()


def test_lost_upload_answer_is_not_duplicated() -> None:
    """Accept a session whose first answer was lost, and that of an abandoned call."""
    history = completed()
    lost = Refused(t=START, owner=history.owner, call="upload", status=0)
    audit = Audit(t=START, session=history.session, events=history.truth[:1])
    assert kinds([audit, lost, lost, *history.told()]) == set(), "it is accepted when it is sent again"
    unknown = Audit(t=START, session="unknown", events=SessionHistory().truth)
    who = GaveUp(t=START, owner="x", call="upload")
    assert kinds([*completed().told(), unknown, who]) == {Kind.UNSERVED}, "its owner gave up, and may have made it"


def test_records_survive_a_file(tmp_path: Any) -> None:
    """Read back what was written, and name the line that is no record."""
    path = tmp_path / "run.jsonl"
    with path.open("wb") as file:
        record = Recorder(file)
        for each in eventful().told():
            record(each)
    with path.open("rb") as lines:
        assert list(read(lines)) == record.records
    with pytest.raises(ValueError, match="line 2"):
        list(read([path.read_bytes().splitlines()[0], b"{}"]))


@pytest.mark.parametrize("history", BAD, ids=lambda history: history.__name__)
def test_bad_history_is_found(history: Callable[[], Records]) -> None:
    """Find the kind that a history was spoilt by."""
    assert BAD[history] in kinds(history(), stuck_seconds=30), check(history()).findings


def test_every_kind_has_a_bad_history() -> None:
    """Cover every kind but staleness, which test_screens covers."""
    assert set(BAD.values()) | {Kind.STALE} == set(KINDS) == set(Kind)


def test_finding_has_no_unexpected_company() -> None:
    """Find exactly the one kind, and what follows from it, in a bad history."""
    for history, more in CONSEQUENCES.items():
        assert kinds(history(), stuck_seconds=30) == {BAD[history]} | more, history.__name__


# -- any history -----------------------------------------------------------------------


@st.composite
def good_histories(draw: st.DrawFn) -> SessionHistory:
    """Return any walk through the table of states.

    Up to three clients watch it, and come and go over any transport.
    """
    history = SessionHistory().shown("a", draw(st.sampled_from(["ws", "sse", "long-poll", "poll"])))
    for _ in range(draw(st.integers(0, 12))):
        client = draw(st.sampled_from("abc"))
        allowed = [event for before, event in TRANSITIONS if before == history.status]
        step = draw(st.sampled_from(["happens", "shown", "pushed", "progress", "closed"]))
        known = f"{history.session}.{client}" in history.clients
        if step == "happens" and allowed:
            history.happens(draw(st.sampled_from(allowed)))
        elif step == "shown" or not known:
            history.shown(client, draw(st.sampled_from(["ws", "sse", "long-poll", "poll", "sync"])) if known else "ws")
        elif step == "pushed":
            history.pushed(client)
        elif step == "progress":
            history.progress(client)
        else:
            history.closed(client, draw(st.sampled_from([1006, 1012, 4000, 4002, 4053])))
    while not Status(history.status).terminal:
        history.happens(draw(st.sampled_from([event for before, event in TRANSITIONS if before == history.status])))
    for name in history.clients:
        client = name.partition(".")[2]
        history.pushed(client) if draw(st.booleans()) else history.shown(client)
        history.closed(client, 1000, history.status)
    return history


@given(good_histories())
@settings(max_examples=200)
def test_any_good_history_has_no_findings(history: SessionHistory) -> None:
    """Find nothing in any walk through the table of states."""
    assert check(history.told(), stale_seconds=5, stuck_seconds=5).findings == []


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


@pytest.mark.slow
@given(good_histories(), st.data())
@settings(max_examples=400)
def test_any_spoilt_history_is_found(history: SessionHistory, data: st.DataObject) -> None:
    """Find a single change in any good history."""
    spoil, kind, expected = data.draw(st.sampled_from(SPOILERS))
    records = history.told()
    places = where(records, kind)
    if places:
        assert kinds(spoil(records, data.draw(st.sampled_from(places)))) & expected
