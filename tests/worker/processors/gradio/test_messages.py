"""What the app's queue says, as values."""

from __future__ import annotations

from typing import Any

import pytest

from worker.processors.gradio.messages import (
    Cancelled,
    Completed,
    Conversation,
    Failed,
    Generated,
    Lost,
    Progressed,
    Queued,
    Started,
    edited,
    progressed,
)


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ({"msg": "estimation", "rank": 2, "rank_eta": 4.5, "queue_size": 3}, Queued(3, 4.5)),
        ({"msg": "estimation", "rank": 0, "rank_eta": None, "queue_size": 1}, Queued(1, None)),
        ({"msg": "process_starts", "eta": 2.5}, Started(2.5)),
        ({"msg": "process_completed", "success": True, "output": {"data": [1]}}, Completed([1])),
        ({"msg": "process_completed", "success": True, "output": {}}, Cancelled()),
        ({"msg": "process_completed", "success": False, "output": {"error": None}}, Failed("")),
        (
            {"msg": "process_completed", "success": False, "output": {"error": "no", "title": "Error"}},
            Failed("no"),
        ),
        (
            {
                "msg": "process_completed",
                "success": False,
                "title": "ZeroGPU quota exceeded",
                "output": {"error": "no"},
            },
            Failed("ZeroGPU quota exceeded: no"),
        ),
        ({"msg": "log", "log": "a word", "level": "info"}, None),
        ({"msg": "later", "output": 3}, None),
    ],
)
def test_message_is_read(message: dict[str, Any], word: object) -> None:
    """Success without a result is a cancel: it must not pass for a result."""
    assert Conversation("e1", "sse_v3").read({**message, "event_id": "e1"}) == word


def test_messages_of_other_calls_are_ignored() -> None:
    """A stream carries all calls of its session, and heartbeats."""
    conversation = Conversation("e1", "sse_v3")
    assert conversation.read({"msg": "process_completed", "event_id": "e0", "success": True, "output": {}}) is None
    assert conversation.read({"msg": "heartbeat"}) is None


def test_lost_stream_concerns_every_call() -> None:
    """A server that stops names no call."""
    message = {"msg": "unexpected_error", "message": "Server stopped unexpectedly.", "event_id": None}
    assert Conversation("e1", "sse_v3").read(message) == Lost("Server stopped unexpectedly.")


def test_generated_edits_are_applied() -> None:
    """Each intermediate result after the first comes as edits of the one before."""

    def generating(data: list[Any]) -> dict[str, Any]:
        return {"msg": "process_generating", "event_id": "e1", "success": True, "output": {"data": data}}

    conversation = Conversation("e1", "sse_v3")
    assert conversation.read(generating(["a", {"path": "/1"}])) == Generated(["a", {"path": "/1"}])
    edits = [[["append", [], "b"]], [["replace", ["path"], "/2"]]]
    assert conversation.read(generating(edits)) == Generated(["ab", {"path": "/2"}])
    assert conversation.read(generating([[], [["replace", [], None]]])) == Generated(["ab", None])


@pytest.mark.parametrize(
    ("old", "edits", "new"),
    [
        ([1, 2, 3], [["delete", [0], None], ["delete", [1], None]], [2]),
        ([1], [["add", [1], 5]], [1, 5]),
        ({"a": {"b": 1}}, [["add", ["a", "c"], 2], ["delete", ["a", "b"], None]], {"a": {"c": 2}}),
        ("x", [["replace", [], {"y": 1}]], {"y": 1}),
    ],
)
def test_edits_change_lists_and_objects(old: Any, edits: Any, new: Any) -> None:
    """The edits are those of Gradio's own clients."""
    assert edited(old, edits) == new


@pytest.mark.parametrize(
    "edits", [[["replace", ["b", "c"], 1]], [["turn", [], 1]], [["delete", [], None], ["delete", [], None]], 3, [[1]]]
)
def test_edits_that_do_not_fit_are_refused(edits: Any) -> None:
    """A malformed edit is an error of the app with a name, not a crash."""
    with pytest.raises(ValueError, match=r"edit|unpack"):
        edited({"a": 1}, edits)


@pytest.mark.parametrize(
    ("units", "progress"),
    [
        ([{"progress": 0.25, "desc": "warping"}], Progressed(0.25, "warping", None, None)),
        ([{"index": 3, "length": 20, "desc": None}], Progressed(0.15, None, 3, 20)),
        ([{"index": 1, "length": 2}, {"index": 5, "length": 10, "desc": "x"}], Progressed(0.75, "x", 5, 10)),
        ([{"index": 4, "length": None}], Progressed(None, None, None, None)),
        ([{"index": 9, "length": 3}, {"progress": 7}], Progressed(1.0, None, 3, 3)),
        ([{"progress": float("nan")}, "x", {"desc": "y" * 100}], Progressed(None, "y" * 80, None, None)),
        (None, Progressed(None, None, None, None)),
    ],
)
def test_progress_of_nested_loops_is_one_number(units: Any, progress: Progressed) -> None:
    """An inner loop is a part of the step that the outer one is at."""
    assert progressed(units) == progress
