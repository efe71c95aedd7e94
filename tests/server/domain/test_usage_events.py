"""Usage events, from a session and its audit trail."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from server.domain.session import AuditEvent, Session
from server.domain.usage_events import event_id, usage_body, usage_event
from testkit.values import AT, SESSION_ID, audit_event
from tryon.protocol.states import Event, Status

SESSION = Session(
    id=SESSION_ID,
    owner="0" * 64,
    status=Status.FAILED,
    seq=6,
    attempt=2,
    burnt=2,
    enqueues=2,
    cancel_requested=False,
    processor="mock",
    params={},
    seed=0,
    files=(),
    error_code="processor_error",
    error_message="It failed.",
    error_retryable=True,
    retry_of=None,
    copy_of=None,
    request_id=None,
    lease_owner=None,
    lease_expires_at=None,
    created_at=AT,
    updated_at=AT,
    finished_at=None,
    deadline_at=AT,
    expires_at=AT,
)


def trail(*steps: tuple[Event, float, dict[str, Any]]) -> list[AuditEvent]:
    """Return events with these seconds since the creation, and these data."""
    return [
        audit_event(seq=seq, event=event, at=AT + timedelta(seconds=at), data=data)
        for seq, (event, at, data) in enumerate(steps, 1)
    ]


def test_units_and_times_are_summed_over_attempts() -> None:
    """Time between attempts, in the queue, is nobody's work."""
    events = trail(
        (Event.CREATED, 0, {}),
        (Event.PROCESSING, 1, {"attempt": 1}),
        (Event.REQUEUED, 3, {"reason": "lease_lost", "usage": {"credits": 1.5}}),
        (Event.PROCESSING, 10, {"attempt": 2}),
        (Event.FAILED, 11.5, {"usage": {"credits": 2, "gpu_seconds": 0.25}}),
    )
    end = AT + timedelta(seconds=11.5)
    told = usage_event(SESSION, events, status="failed", ended_at=end, stored_bytes=1234)
    assert told.usage == {"credits": 3.5, "gpu_seconds": 0.25}
    assert (told.processing_seconds, told.attempts, told.bytes) == (3.5, 2, 1234)
    assert (told.started_at, told.error) == ("2026-11-22T09:00:01.123Z", "processor_error")


def test_session_that_is_erased_while_it_runs_has_run_until_then() -> None:
    """One that waits has run for no time."""
    waiting = trail((Event.CREATED, 0, {}))
    running = [*waiting, *trail((Event.PROCESSING, 1, {}))]
    end = AT + timedelta(seconds=5)
    seconds = [
        usage_event(SESSION, events, status="deleted", ended_at=end, stored_bytes=0).processing_seconds
        for events in (waiting, running)
    ]
    assert seconds == [0, 4]


def test_id_follows_from_the_session_and_does_not_show_it() -> None:
    """So that a repeat is known as one."""
    told = usage_event(SESSION, [], status="deleted", ended_at=AT, stored_bytes=0)
    assert told.id == event_id(SESSION_ID) != event_id("other")
    assert SESSION_ID not in told.id
    message = json.loads(usage_body(told))
    assert (message["type"], message["timestamp"]) == ("usage.session", message["data"]["ended_at"])
