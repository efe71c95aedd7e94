"""The figures of screens: how stale each was, and which connections it lost."""

from __future__ import annotations

import msgspec
import pytest

from server.chaos.checker import check
from server.chaos.records import (
    Asked,
    Clock,
    Fault,
    Heard,
)
from server.chaos.report import report
from server.chaos.verdict import Kind, Loss
from tests.server.chaos.histories import (
    Records,
    SessionHistory,
    completed,
    kinds,
    where,
)
from tryon.protocol.states import Event


def test_staleness_counts_from_commit_or_connection() -> None:
    """Count from the later of the commit and the request for the connection."""
    history = SessionHistory().shown()
    history.happens(Event.PROCESSING).now(2.0)
    history.pushed().closed()
    history.happens(Event.COMPLETED).now(30.0)
    history.shown("a", "sse").closed(code=1000, reason="completed")
    sights = check(history.told()).sights
    assert [round(sight.stale, 1) for sight in sights] == [0.0, 2.0, 0.0]
    assert [round(sight.late, 1) for sight in sights] == [0.0, 2.0, 30.0]
    assert [sight.over for sight in sights] == ["ws", "ws", "sse"]
    assert kinds(history.told(), stale_seconds=1.9) == {Kind.STALE}
    assert kinds(history.told(), stale_seconds=2.1) == set()


def test_sync_does_not_hide_staleness() -> None:
    """Count from the commit, although a sync was asked for later."""
    history = SessionHistory().shown()
    history.happens(Event.FAILED).now(9.0)
    history.shown("a", "sync")
    assert kinds(history.told(), stale_seconds=5) == {Kind.STALE}


def test_poll_is_stale_from_its_request() -> None:
    """Count a poll from the first request after the commit."""
    history = SessionHistory().shown("a", "poll")
    history.now(3.0)
    history.happens(Event.FAILED).now(2.0)  # and nobody asks
    history.shown("a", "poll")
    assert kinds(history.told(), stale_seconds=1) == set()
    history = SessionHistory().shown("a", "poll")
    blind = [Asked(t=history.t + 1 + n, client=f"{history.session}.a", owner=history.owner, session=history.session, over="poll",
                   since=1) for n in range(3)]  # fmt: skip
    history.happens(Event.FAILED).now(4.0)
    history.shown("a", "poll")
    records = sorted([*history.told(), *blind], key=lambda record: record.t)
    assert [round(sight.stale, 1) for sight in check(records).sights] == [0.0, 3.0], "since the first blind answer"


def test_long_poll_is_always_connected() -> None:
    """Count a long poll from the commit, through a time-out."""
    history = SessionHistory().shown("a", "long-poll")
    ask = Asked(
        t=0, client=f"{history.session}.a", owner=history.owner, session=history.session, over="long-poll", since=1
    )
    history.records.append(msgspec.structs.replace(ask, t=history.now()))
    history.happens(Event.FAILED).now(25.0)  # it was told nothing, and asks again
    history.shown("a", "long-poll")
    assert kinds(history.told(), stale_seconds=20) == {Kind.STALE}


@pytest.mark.parametrize("over", ["ws", "sse", "long-poll"])
def test_deaf_connection_was_stale(over: str) -> None:
    """Count a connection that showed nothing until it was given up."""
    history = SessionHistory().shown("a", over)
    history.happens(Event.FAILED).now(55.0)
    history.closed(code=1006, reason="silent").now(20.0)
    history.shown("a", over)
    assert [round(sight.stale) for sight in check(history.told()).sights] == [0, 55]
    assert kinds(history.told(), stale_seconds=5) == {Kind.STALE}


def test_missed_while_disconnected_is_not_stale() -> None:
    """Count nothing while the client was disconnected."""
    history = SessionHistory().shown()
    history.now(30.0)
    history.closed()
    history.happens(Event.FAILED).now(30.0)
    history.shown("a", "sse")
    assert kinds(history.told(), stale_seconds=1) == set()


def test_blind_poll_counts_before_a_refusal() -> None:
    """Count a poll that was answered without the transition, until the refused one."""
    history = SessionHistory().shown("a", "poll")
    name = f"{history.session}.a"
    history.happens(Event.FAILED)
    for _ in range(2):
        ask = Asked(t=history.now(), client=name, owner=history.owner, session=history.session, over="poll", since=1)
        history.records.append(ask)
        history.now(9.0)
    history.closed(code=503).now(9.0)
    history.shown("a", "poll")
    assert [round(sight.stale) for sight in check(history.told()).sights] == [0, 9], "until it asked and was refused"
    assert kinds(history.told(), stale_seconds=5) == {Kind.STALE}


def test_losses_differ_from_refusals() -> None:
    """Count lost connections apart from refused ones."""
    history = SessionHistory().shown()
    history.closed(code=4000).closed(code=503)
    history.shown("a", "poll").shown("a", "poll").closed(code=503)
    assert check(history.told()).losses == {
        Loss("ws", 4000, live=True): 1,
        Loss("ws", 503, live=False): 1,
        Loss("poll", 503, live=True): 1,
    }


def test_quickest_answer_sets_the_clock() -> None:
    """Trust the comparison with the shortest round trip."""
    history = completed()
    clocks: Records = [Clock(t=0, offset=-100.0, round_trip=3.0), Clock(t=0, offset=50.0, round_trip=0.001)]
    worst = max(sight.late for sight in check(clocks + history.told()).sights)
    assert worst == pytest.approx(50.0, abs=0.1)


def test_report_says_whether_clocks_were_compared() -> None:
    """Say so where no comparison was made."""
    clock: Records = [Clock(t=0, offset=0.0, round_trip=0.001)]
    assert "clocks were not compared" in report(check(completed().told()))
    assert "clocks were not compared" not in report(check(clock + completed().told()))


def test_sight_belongs_to_the_last_fault() -> None:
    """Attribute a sight to the last fault before it."""
    records = completed().told()
    at = where(records, Heard)[1]
    faults: Records = [Fault(t=0, name="redis killed")]
    sights = check([*records[:at], *faults, *records[at:]]).sights
    assert [sight.fault for sight in sights] == ["", "", "redis killed"]
