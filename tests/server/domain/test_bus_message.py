"""Frames as the wire has them, and the bus message that carries them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.bus_message import (
    EVENT,
    GONE,
    PREFIX_BYTES,
    PROGRESS,
    TERMINAL,
    WAITING,
    bus_message,
    event_frame,
    event_message,
    gone_message,
    history_event,
    parse_prefix,
    progress_message,
)
from server.domain.session import AuditEvent, Progress
from tryon.protocol.frames import ByeFrame, encode
from tryon.protocol.states import Event, GoneReason, Status

AT = datetime(2026, 11, 22, 9, 0, 0, 123456, UTC)
ID = "01990000-0000-7000-8000-000000000001"


def audit(**changed: Any) -> AuditEvent:
    settings: dict[str, Any] = {
        "session_id": ID,
        "seq": 2,
        "event": Event.PROCESSING,
        "from_status": Status.CREATED,
        "status": Status.PROCESSING,
        "at": AT,
        "attempt": 1,
        "actor": "worker:w1",
        "data": {"attempt": 1},
    }
    return AuditEvent(**settings | changed)


def link(key: str) -> str:
    return f"/signed/{key}"


def test_an_event_on_the_wire() -> None:
    assert json.loads(encode(event_frame(audit(), link))) == {
        "type": "event",
        "session_id": ID,
        "seq": 2,
        "event": "processing",
        "from": "created",
        "status": "processing",
        "terminal": False,
        "at": "2026-11-22T09:00:00.123Z",
        "data": {"attempt": 1},
    }


def test_the_first_event_comes_from_nowhere() -> None:
    first = audit(seq=1, event=Event.CREATED, from_status=None, status=Status.CREATED, data={})
    assert json.loads(encode(event_frame(first, link)))["from"] is None


def test_who_did_it_is_not_told() -> None:
    assert b"w1" not in encode(event_frame(audit(), link))
    assert b"w1" not in encode(history_event(audit(), link))


def test_file_keys_leave_as_links_and_nothing_else_is_touched() -> None:
    data = {"input": "inputs/a", "garment": None, "output": "outputs/b", "reason": "drained", "attempt": 1}
    frame = event_frame(audit(data=data), link)
    assert frame.data == {
        "input": "/signed/inputs/a",
        "garment": None,
        "output": "/signed/outputs/b",
        "reason": "drained",
        "attempt": 1,
    }
    assert data["input"] == "inputs/a"


@pytest.mark.parametrize(
    ("status", "kind"), [(Status.PROCESSING, EVENT), (Status.CREATED, WAITING), (Status.CANCELLED, TERMINAL)]
)
def test_a_bus_message_is_the_frame_behind_what_the_hub_must_know(status: Status, kind: int) -> None:
    event = audit(status=status, seq=7, attempt=3)
    message = event_message(event, link)
    assert parse_prefix(message) == (kind, 7)
    assert message[11:17] == b"000003"
    assert message[PREFIX_BYTES:] == encode(event_frame(event, link))


def test_progress_names_its_transition_and_attempt() -> None:
    message = progress_message(ID, Progress(seq=4, attempt=2, at="t", progress=0.5, stage="rendering"))
    assert parse_prefix(message) == (PROGRESS, 4)
    assert json.loads(message[PREFIX_BYTES:]) == {
        "type": "progress",
        "session_id": ID,
        "seq": 4,
        "progress": 0.5,
        "stage": "rendering",
        "eta_seconds": None,
        "at": "t",
    }


def test_an_erasure_is_the_bye_that_clients_get() -> None:
    message = gone_message(GoneReason.EXPIRED)
    assert parse_prefix(message)[0] == GONE
    assert json.loads(message[PREFIX_BYTES:])["reason"] == "expired"


def test_a_bye_always_says_whether_and_when_to_come_back() -> None:
    assert json.loads(encode(ByeFrame(1000, "completed", reconnect=False))) == {
        "type": "bye",
        "code": 1000,
        "reason": "completed",
        "reconnect": False,
        "retry_after_ms": None,
    }


@given(
    kind=st.sampled_from([EVENT, WAITING, TERMINAL, PROGRESS, GONE]),
    seq=st.integers(0, 2**31 - 1),
    attempt=st.integers(0, 999_999),
    frame=st.binary(),
)
def test_what_goes_onto_the_bus_comes_off_it(kind: int, seq: int, attempt: int, frame: bytes) -> None:
    message = bus_message(kind, seq, attempt, frame)
    assert parse_prefix(message) == (kind, seq)
    assert message[PREFIX_BYTES:] == frame


@given(st.binary(max_size=60))
def test_what_is_no_bus_message_is_a_value_error_and_nothing_else(message: bytes) -> None:
    try:
        kind, _ = parse_prefix(message)
    except ValueError:
        return
    assert kind in (EVENT, WAITING, TERMINAL, PROGRESS, GONE)
