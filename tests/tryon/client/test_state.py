"""One cursor takes every transition once and in order, over any connections."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testkit.values import session_view
from tryon.client.state import FollowedSession
from tryon.protocol.frames import EventFrame, ProgressFrame
from tryon.protocol.states import Event, Status
from tryon.protocol.views import PreviewView, SessionView

STEPS = [
    (Event.CREATED, None, Status.CREATED),
    (Event.PROCESSING, Status.CREATED, Status.PROCESSING),
    (Event.REQUEUED, Status.PROCESSING, Status.CREATED),
    (Event.PROCESSING, Status.CREATED, Status.PROCESSING),
    (Event.COMPLETED, Status.PROCESSING, Status.COMPLETED),
]
EVENTS = [
    EventFrame("s", seq, event, before, status, status.terminal, f"2026-11-22T09:00:0{seq}.000Z", {})
    for seq, (event, before, status) in enumerate(STEPS, 1)
]


def view(seq: int, **fields: Any) -> SessionView:
    """Return the session as the server shows it at ``seq``."""
    event = EVENTS[seq - 1]
    return session_view(**{"status": event.status, "seq": seq, "terminal": event.terminal} | fields)


def progress(seq: int, share: float) -> ProgressFrame:
    """Return a word about the transition ``seq``."""
    return ProgressFrame("s", seq, share, "rendering", 1.0, "", None)


def test_snapshot_brings_what_was_missed() -> None:
    """Yield each missed transition with the state that it left."""
    state = FollowedSession()
    updates = state.snapshot(view(3), EVENTS[:3])
    assert [(update.event.seq, update.status) for update in updates if update.event] == [
        (1, "created"),
        (2, "processing"),
        (3, "created"),
    ]
    assert (state.cursor, state.behind, state.ended) == (3, False, False)


def test_seen_transitions_are_dropped() -> None:
    """Yield nothing for a repeat, over whichever connection."""
    state = FollowedSession()
    state.snapshot(view(2), EVENTS[:2])
    assert state.event(EVENTS[1]) == []
    assert state.snapshot(view(2), EVENTS[:2]) == []
    assert state.snapshot(view(1), EVENTS[:1]) == []
    assert state.session == view(2)


def test_hole_is_noted_and_filled_by_a_snapshot() -> None:
    """Take nothing beyond a hole, until a snapshot brings what is missing."""
    state = FollowedSession()
    state.snapshot(view(1), EVENTS[:1])
    assert state.event(EVENTS[2]) == []
    assert (state.behind, state.cursor) == (True, 1)
    assert [update.event.seq for update in state.snapshot(view(3), EVENTS[1:3]) if update.event] == [2, 3]
    assert not state.behind


def test_hole_inside_a_snapshot_is_noted() -> None:
    """Take what comes before a hole in ``missed``, and stay behind."""
    state = FollowedSession()
    updates = state.snapshot(view(3), [EVENTS[0], EVENTS[2]])
    assert [update.event.seq for update in updates if update.event] == [1]
    assert (state.cursor, state.behind) == (1, True)


def test_progress_belongs_to_its_transition() -> None:
    """Take progress of the present transition, drop older, note newer."""
    state = FollowedSession()
    state.snapshot(view(2), EVENTS[:2])
    (update,) = state.progress(progress(2, 0.5))
    assert (update.progress, update.stage, update.event) == (0.5, "rendering", None)
    assert state.progress(progress(1, 0.9)) == []
    assert not state.behind
    assert state.progress(progress(3, 0.1)) == []
    assert state.behind


def test_transition_clears_progress_and_keeps_links() -> None:
    """Show the state after a transition from what its frame says."""
    state = FollowedSession()
    state.snapshot(view(4, progress=0.9, stage="rendering"), EVENTS[:4])
    ended = EventFrame("s", 5, Event.COMPLETED, Status.PROCESSING, Status.COMPLETED, True, "now", {"output": "/o"})
    (update,) = state.event(ended)
    assert (update.progress, update.stage, update.terminal) == (1.0, None, True)
    assert (update.session.links.input, update.session.links.output) == ("/files/input", "/o")
    assert state.ended


def test_error_of_a_failed_session_is_typed() -> None:
    """Show why a session failed."""
    state = FollowedSession()
    state.snapshot(view(2), EVENTS[:2])
    error = {"code": "timeout", "message": "Too slow.", "retryable": True}
    failed = EventFrame("s", 3, Event.FAILED, Status.PROCESSING, Status.FAILED, True, "now", {"error": error})
    (update,) = state.event(failed)
    assert update.session.error
    assert (update.session.error.code, update.session.error.retryable) == ("timeout", True)


def test_missed_transitions_show_nothing_of_the_end() -> None:
    """Show no picture and no later attempt before the transition that brings it."""
    steps = [msgspec.structs.replace(event, data={}) for event in EVENTS]
    steps[1] = msgspec.structs.replace(EVENTS[1], data={"attempt": 1})
    steps[3] = msgspec.structs.replace(EVENTS[3], data={"attempt": 2})
    steps[4] = msgspec.structs.replace(EVENTS[4], data={"output": "/o"})
    ended = view(5, attempt=2, links=msgspec.structs.replace(session_view().links, output="/o"))
    for since, attempts in ((0, [0, 1, 1, 2, 2]), (2, [1, 2, 2])):
        updates = FollowedSession(since).snapshot(ended, steps[since:])
        assert [update.session.attempt for update in updates] == attempts
        assert [update.session.links.output for update in updates] == [None] * (4 - since) + ["/o"]


def test_unreadable_transition_moves_nothing() -> None:
    """Keep the cursor where it was, so that a transition is not lost unseen."""
    state = FollowedSession()
    state.snapshot(view(1), EVENTS[:1])
    broken = EventFrame("s", 3, Event.FAILED, Status.PROCESSING, Status.FAILED, True, "now", {"error": {"code": 1}})
    with pytest.raises(msgspec.ValidationError):
        state.snapshot(view(4), [EVENTS[1], broken, EVENTS[3]])
    assert (state.cursor, state.session) == (1, view(1))
    with pytest.raises(msgspec.ValidationError):
        state.event(msgspec.structs.replace(broken, seq=2))
    assert (state.cursor, state.session) == (1, view(1))


def test_known_session_is_not_shown_again() -> None:
    """Yield nothing that the caller knows already, and each change of it."""
    state = FollowedSession(2, view(2))
    assert state.snapshot(view(2), []) == []
    (update,) = state.snapshot(view(2, queue_position=3), [])
    assert (update.queue_position, update.event) == (3, None)


@given(st.lists(st.tuples(st.sampled_from("sepo"), st.integers(0, 5), st.integers(1, 5)), max_size=40))
def test_any_frames_yield_each_transition_once(frames: list[tuple[str, int, int]]) -> None:
    """Yield 1, 2, 3 … whatever arrives: repeats, holes, old snapshots, in any order."""
    state, shown, newest = FollowedSession(), [], 0
    for kind, since, seq in frames:
        if kind == "s":
            updates = state.snapshot(view(seq), EVENTS[min(since, seq) : seq])
        elif kind == "p":
            updates = state.progress(progress(seq, 0.5))
        else:
            updates = state.event(EVENTS[seq - 1])
        shown += [update.event.seq for update in updates if update.event]
        for update in updates:
            if update.event is None:
                assert update.seq >= newest, "never a step back"
            newest = max(newest, update.seq)
    assert shown == list(range(1, len(shown) + 1))
    assert state.cursor == len(shown)


def test_progress_brings_steps_and_a_preview() -> None:
    """The picture stays while frames do not name it; a fresh link replaces its own."""
    state = FollowedSession()
    state.snapshot(view(2), EVENTS[:2])
    shown = ProgressFrame("s", 2, 0.5, "rendering", 1.0, "", None, 3, 20, 4, "/api/tryon/files/p-1.png?sig=a")
    (update,) = state.progress(shown)
    assert (update.step, update.session.steps, update.session.upstream_position) == (3, 20, 4)
    assert update.session.preview == PreviewView("image/png", None, None, "/api/tryon/files/p-1.png?sig=a")
    (update,) = state.progress(progress(2, 0.6))
    assert (update.step, update.preview) == (None, "/api/tryon/files/p-1.png?sig=a")
    known = PreviewView("image/png", 90, 120, "/api/tryon/files/p-1.png?sig=a")
    state.session = msgspec.structs.replace(update.session, preview=known)
    (update,) = state.progress(msgspec.structs.replace(shown, preview="/api/tryon/files/p-1.png?sig=b"))
    assert update.session.preview == PreviewView("image/png", 90, 120, "/api/tryon/files/p-1.png?sig=b")


def test_outputs_come_with_their_transition() -> None:
    """Each result has its link, and a session shows none before it has completed."""
    file = {"role": "result", "index": 0, "type": "image/png", "width": 9, "height": 8, "bytes": 7, "link": "/o"}
    data = {"output": "/o", "outputs": [file, file | {"index": 1, "type": "video/mp4", "width": None, "link": "/v"}]}
    ended = EventFrame("s", 5, Event.COMPLETED, Status.PROCESSING, Status.COMPLETED, True, "now", data)
    state = FollowedSession()
    state.snapshot(view(4), EVENTS[:4])
    (update,) = state.event(ended)
    assert [(each.index, each.type, each.link) for each in update.session.outputs] == [
        (0, "image/png", "/o"),
        (1, "video/mp4", "/v"),
    ]
    late = FollowedSession()
    updates = late.snapshot(update.session, [*EVENTS[:4], ended])
    assert [len(each.session.outputs) for each in updates] == [0, 0, 0, 0, 2]
