"""The one table of what may follow what, and what is derived from it."""

from __future__ import annotations

from tryon.protocol.states import TERMINAL, TRANSITIONS, Event, Status, mermaid


def test_completed_failed_and_cancelled_are_final_for_ever() -> None:
    assert {Status.COMPLETED, Status.FAILED, Status.CANCELLED} == TERMINAL
    assert not any(before in TERMINAL for before, _ in TRANSITIONS)
    assert {status for status in Status if status.terminal} == TERMINAL


def test_every_state_can_be_reached_and_every_other_than_the_ends_can_be_left() -> None:
    reached, size = {Status.CREATED}, 0
    while len(reached) != size:
        size = len(reached)
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(Status)
    assert {before for before, _ in TRANSITIONS if before} == set(Status) - TERMINAL


def test_every_event_happens_and_is_named_after_where_it_leads() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)
    for (_, event), after in TRANSITIONS.items():
        assert event.value == after.value or event is Event.REQUEUED


def test_a_session_begins_in_one_way() -> None:
    assert [(event, after) for (before, event), after in TRANSITIONS.items() if before is None] == [
        (Event.CREATED, Status.CREATED)
    ]


def test_only_what_runs_can_complete_or_go_back() -> None:
    assert [before for before, event in TRANSITIONS if event in (Event.COMPLETED, Event.REQUEUED)] == [
        Status.PROCESSING,
        Status.PROCESSING,
    ]


def test_the_diagram_has_an_arrow_for_every_row_and_every_end() -> None:
    lines = mermaid().splitlines()
    assert lines[0] == "stateDiagram-v2"
    assert len(lines) == 1 + len(TRANSITIONS) + len(TERMINAL)
    assert "    [*] --> created" in lines
    assert "    processing --> created : requeued" in lines
    assert "    failed --> [*]" in lines
