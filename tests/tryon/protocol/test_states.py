"""The table of transitions, and everything derived from it."""

from __future__ import annotations

from tryon.protocol.states import TERMINAL, TRANSITIONS, Event, Status, mermaid


def test_terminal_states_have_no_transitions() -> None:
    """Completed, failed and cancelled are final."""
    assert {Status.COMPLETED, Status.FAILED, Status.CANCELLED} == TERMINAL
    assert not any(before in TERMINAL for before, _ in TRANSITIONS)
    assert {status for status in Status if status.terminal} == TERMINAL


def test_every_state_is_reachable() -> None:
    """Every state is reached from created, and every one but the ends can be left."""
    reached, size = {Status.CREATED}, 0
    while len(reached) != size:
        size = len(reached)
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(Status)
    assert {before for before, _ in TRANSITIONS if before} == set(Status) - TERMINAL


def test_events_are_named_after_their_state() -> None:
    """Every event is in the table; only requeued leads to a state of another name."""
    assert {event for _, event in TRANSITIONS} == set(Event)
    for (_, event), after in TRANSITIONS.items():
        assert event.value == after.value or event is Event.REQUEUED


def test_session_begins_as_created() -> None:
    """There is one transition from nothing."""
    assert [(event, after) for (before, event), after in TRANSITIONS.items() if before is None] == [
        (Event.CREATED, Status.CREATED)
    ]


def test_only_processing_completes_or_requeues() -> None:
    """A session that waits can neither complete nor be requeued."""
    assert [before for before, event in TRANSITIONS if event in (Event.COMPLETED, Event.REQUEUED)] == [
        Status.PROCESSING,
        Status.PROCESSING,
    ]


def test_diagram_draws_every_transition() -> None:
    """The diagram has an arrow for each row of the table and for each end."""
    lines = mermaid().splitlines()
    assert lines[0] == "stateDiagram-v2"
    assert len(lines) == 1 + len(TRANSITIONS) + len(TERMINAL)
    assert "    [*] --> created" in lines
    assert "    processing --> created : requeued" in lines
    assert "    failed --> [*]" in lines
