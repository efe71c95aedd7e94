"""The columns and the event's data of each outcome."""

from __future__ import annotations

import pytest

from server.adapters.database.changes import Begin, Cancel, Change, Complete, Fail, Outcome, Requeue
from server.adapters.database.database import Database
from testkit.running import new_session, result, stored
from tests.server.adapters.database.steps import brought_to
from tryon.protocol.states import Status

FAILED = {"error_code": "bad_photo", "error_message": "Not a photo.", "error_retryable": False}
RESULTS = (result("outputs/a", bytes=7, width=3), result("outputs/b", position=1))
COMPLETED = {
    "output": "outputs/a",
    "outputs": [
        {
            "role": "result",
            "index": 0,
            "type": "image/jpeg",
            "width": 3,
            "height": None,
            "bytes": 7,
            "key": "outputs/a",
        },
        {
            "role": "result",
            "index": 0,
            "type": "image/jpeg",
            "width": None,
            "height": None,
            "bytes": 0,
            "key": "outputs/b",
        },
    ],
}
ERROR = {"error": {"code": "bad_photo", "message": "Not a photo.", "retryable": False}}


@pytest.mark.parametrize(
    ("outcome", "columns", "data"),
    [
        (Complete(RESULTS), {"outputs": list(RESULTS), "burnt": 0, "enqueues": 1}, COMPLETED),
        (Fail("bad_photo", "Not a photo.", False), FAILED | {"burnt": 0}, ERROR),
        (Fail("bad_photo", "Not a photo.", False, burnt=3), FAILED | {"burnt": 3}, ERROR),
        (Requeue(reason="drain", burnt=1, enqueues=2), {"burnt": 1, "enqueues": 2}, {"reason": "drain"}),
        (Cancel(), {"outputs": [], "error_code": None, "burnt": 0}, {}),
    ],
    ids=str,
)
async def test_outcome_sets_columns_and_event_data(
    database: Database, outcome: Outcome, columns: dict[str, object], data: dict[str, object]
) -> None:
    session = await brought_to(database, Status.PROCESSING)
    moved = await database.writer.transition(
        Change(session_id=session.id, outcome=outcome, from_status=Status.PROCESSING, actor="test")
    )
    assert moved is not None
    assert {name: getattr(moved.session, name) for name in columns} == columns
    assert (moved.event.event, moved.event.data) == (outcome.event, data)


async def test_begin_raises_attempt_and_sets_lease(database: Database) -> None:
    session = await database.writer.insert(new_session())
    for attempt in (1, 2):
        begin = Change(session_id=session.id, outcome=Begin("w", 60), from_status=Status.CREATED, actor="test")
        moved = await database.writer.transition(begin)
        assert moved is not None and moved.event.data == {"attempt": attempt, "processor": "mock"}
        assert (moved.session.attempt, moved.session.lease_owner) == (attempt, "w")
        requeue = Requeue(reason="drain", burnt=0, enqueues=attempt + 1)
        back = Change(session_id=session.id, outcome=requeue, from_status=Status.PROCESSING, actor="test")
        assert await database.writer.transition(back) is not None


async def test_created_event_names_files_and_original(database: Database) -> None:
    """The data of a session's first event: its photos, its params and its seed."""
    files = (stored("inputs/p.jpg"), stored("inputs/g.jpg", position=1, role="garment"))
    original = await database.writer.insert(new_session(files=files, params={"size": "M"}, seed=7))
    retry = await database.writer.insert(new_session(retry_of=original.id))
    found = await database.reader.many_with_events([original.id, retry.id], 0)
    data = found[original.id].events[0].data
    assert (data["input"], data["garment"]) == ("inputs/p.jpg", "inputs/g.jpg")
    assert [(each["role"], each["key"]) for each in data["inputs"]] == [
        ("person", "inputs/p.jpg"),
        ("garment", "inputs/g.jpg"),
    ]
    assert (data["params"], data["seed"]) == ({"size": "M"}, 7)
    data = found[retry.id].events[0].data
    assert (data["input"], data["retry_of"]) == (retry.inputs[0].key, original.id)
    assert "garment" not in data
