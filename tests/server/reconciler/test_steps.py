"""Steps of long work fit themselves to what others wait for."""

from __future__ import annotations

import asyncio
import time

import pytest

from server.reconciler.steps import (
    FEWEST_ITEMS,
    FIRST_ITEMS,
    HELD_SECONDS,
    MAX_PAUSE_SECONDS,
    MOST_ITEMS,
    STEP_SECONDS,
    Steps,
)


def test_steps_grow_while_they_are_quick() -> None:
    """Up to a bound, however quick they are."""
    steps = Steps()
    for _ in range(20):
        steps.note(STEP_SECONDS / 10, steps.items)
    assert steps.items == MOST_ITEMS


def test_steps_shrink_after_a_slow_one() -> None:
    """Down to what costs as much as its round trips."""
    steps = Steps()
    steps.items = MOST_ITEMS
    steps.note(STEP_SECONDS * 2, MOST_ITEMS)
    assert steps.items == MOST_ITEMS // 2
    for _ in range(20):
        steps.note(STEP_SECONDS * 2, steps.items)
    assert steps.items == FEWEST_ITEMS


def test_steps_shrink_after_others_could_not_write() -> None:
    """A quick step that held the database's lock for long is followed by a smaller."""
    steps = Steps()
    steps.items = MOST_ITEMS
    steps.note_held(HELD_SECONDS * 0.8)
    steps.note_held(HELD_SECONDS * 0.8)
    steps.note(STEP_SECONDS / 10, MOST_ITEMS)
    assert steps.items == MOST_ITEMS // 2


def test_small_rest_says_nothing_of_the_size() -> None:
    """A quick step with few items is no reason for a larger one."""
    steps = Steps()
    steps.note(STEP_SECONDS / 10, 1)
    assert steps.items == FIRST_ITEMS


async def test_steps_yield_every_item_once() -> None:
    """In order, whatever size the steps have."""
    steps = Steps()
    assert [each async for some in steps.over(range(1000)) for each in some] == list(range(1000))


async def test_what_one_step_held_is_not_counted_for_the_next() -> None:
    """The size falls once, and grows again."""
    steps = Steps()
    sizes = []
    async for some in steps.over(range(FIRST_ITEMS * 4)):
        sizes.append(len(some))
        if len(sizes) == 1:
            steps.note_held(HELD_SECONDS * 2)
    assert sizes[1] == FIRST_ITEMS // 2
    assert sizes[2] == FIRST_ITEMS


@pytest.mark.parametrize("kind", ["waiting", "computing", "holding", "computing for long"])
async def test_pause_is_as_long_as_others_were_kept_waiting(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By this thread's computing, or by the lock; a wait of the step itself is none."""
    steps, pauses, used = Steps(), [], 0.0
    monkeypatch.setattr(time, "thread_time", lambda: used)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", pause)
    async for _ in steps.over([1]):
        used += {"computing": 0.03, "computing for long": 3.0}.get(kind, 0.001)
        steps.note_held(0.02 if kind == "holding" else 0.0)
    expected = {"waiting": 0.001, "computing": 0.03, "holding": 0.02, "computing for long": MAX_PAUSE_SECONDS}
    assert pauses == [pytest.approx(expected[kind])]
