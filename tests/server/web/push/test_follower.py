"""The rule of following: no gap, no repeat, no step back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from server.domain.bus_message import EVENT, PROGRESS, TERMINAL
from tests.server.web.push.kit import (
    Page,
)
from tryon.protocol.frames import encode


def frame(seq: int, last: int) -> tuple[int, int, bytes]:
    status = "completed" if seq == last else "processing"
    body = {"type": "event", "seq": seq, "status": status, "at": "2026-11-22T09:00:00.000Z"}
    return (TERMINAL if seq == last else EVENT, seq, encode(body))


@given(
    snapshot=st.integers(1, 6),
    last=st.integers(6, 9),
    before=st.lists(st.integers(1, 9), max_size=12),
    after=st.lists(st.integers(1, 9), max_size=20),
    progress=st.sets(st.integers(0, 19)),
)
@settings(max_examples=400)
def test_follower_never_repeats_skips_or_steps_back(
    snapshot: int, last: int, before: list[int], after: list[int], progress: set[int]
) -> None:
    """In any order, doubled or dropped: each hole is reported, and nothing else."""
    page = Page("id")
    page.snapshot(snapshot)
    for seq in before:
        assert page.offer(*frame(min(seq, last), last))
    assert page.told == [f"snapshot {snapshot}"], "held until the snapshot is out"
    position, hole = snapshot, False
    for seq in before:
        seq = min(seq, last)
        hole |= seq > position + 1
        position += seq == position + 1
    assert page.resume(snapshot) is not hole
    for n, seq in enumerate(after):
        seq = min(seq, last)
        if n in progress:
            whole = page.offer(PROGRESS, seq, encode({"progress": 0.5}))
            assert whole is (seq <= position), "progress of a transition that was never seen means a hole"
            continue
        whole = page.offer(*frame(seq, last))
        assert whole is (seq <= position + 1)
        position += seq == position + 1
    assert page.seqs == list(range(snapshot, position + 1))
    assert sum(str(word).startswith("end") for word in page.told) == (position == last and snapshot < last)


@given(order=st.permutations(range(2, 8)), snapshot=st.integers(1, 7))
def test_follower_is_whole_when_holes_are_filled(order: list[int], snapshot: int) -> None:
    """As the hub does, everything missing is offered in order after each hole."""
    page = Page("id")
    page.snapshot(snapshot)
    page.resume(snapshot)
    for seq in order:
        if not page.offer(*frame(seq, 7)):
            assert all(page.offer(*frame(missing, 7)) for missing in range((page.seq or 0) + 1, seq + 1))
    assert page.seqs == list(range(snapshot, 8))


def test_progress_of_an_older_transition_is_dropped() -> None:
    """Progress counts only for the transition that the client was given last."""
    page = Page("id")
    page.resume(4)
    assert page.offer(PROGRESS, 3, encode({"progress": 0.9}))
    assert page.offer(PROGRESS, 4, encode({"progress": 0.1}))
    assert page.told == ["progress 0.1"]


def test_progress_over_a_lost_connection_is_no_hole() -> None:
    """A delivery that finds its connection lost clears the cursor, raising nothing."""

    class LostPage(Page):
        __slots__ = ()

        def progress(self, frame: bytes) -> None:
            self.seq = None

    page = LostPage("id")
    page.resume(4)
    assert page.offer(PROGRESS, 4, encode({"progress": 0.1}))


def test_newest_progress_is_held_for_a_joiner() -> None:
    """Held progress is replaced by the next; only the newest is delivered."""
    page = Page("id")
    for step in range(1, 10):
        page.offer(PROGRESS, 2, encode({"progress": step / 10}))
    assert page.resume(2)
    assert page.told == ["progress 0.9"]
