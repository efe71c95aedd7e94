"""Frames as the wire has them, and the bus message that carries them."""

from __future__ import annotations

import json

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
    event_message,
    gone_message,
    parse_prefix,
    progress_message,
)
from server.domain.frames import event_frame
from server.domain.session import Progress
from testkit.values import SESSION_ID, audit_event
from tryon.protocol.frames import encode
from tryon.protocol.states import GoneReason, Status


def link(key: str) -> str:
    return f"/signed/{key}"


@pytest.mark.parametrize(
    ("status", "kind"), [(Status.PROCESSING, EVENT), (Status.CREATED, WAITING), (Status.CANCELLED, TERMINAL)]
)
def test_bus_message_is_prefix_and_frame(status: Status, kind: int) -> None:
    """Kind, seq and attempt stand before the frame that clients get."""
    event = audit_event(status=status, seq=7, attempt=3)
    message = event_message(event, link)
    assert parse_prefix(message) == (kind, 7)
    assert message[11:17] == b"000003"
    assert message[PREFIX_BYTES:] == encode(event_frame(event, link))


def test_progress_message_names_its_transition() -> None:
    """The prefix holds the seq and the attempt that the progress belongs to."""
    message = progress_message(SESSION_ID, Progress(seq=4, attempt=2, at="t", progress=0.5, stage="rendering"))
    assert parse_prefix(message) == (PROGRESS, 4)
    assert json.loads(message[PREFIX_BYTES:]) == {
        "type": "progress",
        "session_id": SESSION_ID,
        "seq": 4,
        "progress": 0.5,
        "stage": "rendering",
        "eta_seconds": None,
        "at": "t",
    }


def test_gone_message_carries_the_bye() -> None:
    """The frame of an erasure is the last one that clients get."""
    message = gone_message(GoneReason.EXPIRED)
    assert parse_prefix(message)[0] == GONE
    assert json.loads(message[PREFIX_BYTES:])["reason"] == "expired"


@given(
    kind=st.sampled_from([EVENT, WAITING, TERMINAL, PROGRESS, GONE]),
    seq=st.integers(0, 2**31 - 1),
    attempt=st.integers(0, 999_999),
    frame=st.binary(),
)
def test_bus_message_round_trips(kind: int, seq: int, attempt: int, frame: bytes) -> None:
    """Any kind, seq and frame come back as they were."""
    message = bus_message(kind, seq, attempt, frame)
    assert parse_prefix(message) == (kind, seq)
    assert message[PREFIX_BYTES:] == frame


@given(st.binary(max_size=60))
def test_other_bytes_raise_value_error(message: bytes) -> None:
    """No other exception reaches the reader of the bus."""
    try:
        kind, _ = parse_prefix(message)
    except ValueError:
        return
    assert kind in (EVENT, WAITING, TERMINAL, PROGRESS, GONE)
