"""Frames as the wire has them."""

from __future__ import annotations

import json

from server.domain.frames import event_frame, history_event
from testkit.values import SESSION_ID, audit_event
from tryon.protocol.frames import encode
from tryon.protocol.states import Event, Status


def link(key: str) -> str:
    return f"/signed/{key}"


def test_event_frame_is_the_documented_json() -> None:
    """Field by field, in UTC with milliseconds."""
    assert json.loads(encode(event_frame(audit_event(), link))) == {
        "type": "event",
        "session_id": SESSION_ID,
        "seq": 2,
        "event": "processing",
        "from": "created",
        "status": "processing",
        "terminal": False,
        "at": "2026-11-22T09:00:00.123Z",
        "data": {"attempt": 1},
    }


def test_first_event_has_no_status_before() -> None:
    """The `from` of the first event is null."""
    first = audit_event(seq=1, event=Event.CREATED, from_status=None, status=Status.CREATED, data={})
    assert json.loads(encode(event_frame(first, link)))["from"] is None


def test_frames_hide_the_actor() -> None:
    """Neither frames nor the history name the worker."""
    assert b"w1" not in encode(event_frame(audit_event(), link))
    assert b"w1" not in encode(history_event(audit_event(), link))


def test_file_keys_become_links() -> None:
    """Other fields stay as they are, and so does the event itself."""
    data = {"input": "inputs/a", "garment": None, "output": "outputs/b", "reason": "drained", "attempt": 1}
    frame = event_frame(audit_event(data=data), link)
    assert frame.data == {
        "input": "/signed/inputs/a",
        "garment": None,
        "output": "/signed/outputs/b",
        "reason": "drained",
        "attempt": 1,
    }
    assert data["input"] == "inputs/a"


def test_listed_files_have_links_for_keys() -> None:
    """A file in a list keeps its other fields, and the event its keys."""
    data = {"outputs": [{"role": "result", "bytes": 7, "key": "outputs/b"}]}
    frame = event_frame(audit_event(data=data), link)
    assert frame.data == {"outputs": [{"role": "result", "bytes": 7, "link": "/signed/outputs/b"}]}
    assert data["outputs"][0]["key"] == "outputs/b"
