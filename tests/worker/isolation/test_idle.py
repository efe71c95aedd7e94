"""Which child a session gets, and which idle child goes."""

from __future__ import annotations

import asyncio

from worker.isolation.child_link import ChildLink, State
from worker.isolation.idle import IdleChildren


def child(state: State = State.READY) -> ChildLink:
    made = ChildLink()
    made.state = state
    return made


async def test_last_ready_child_is_taken_first() -> None:
    """A ready child is taken rather than one that warms up, the last one first."""
    idle = IdleChildren(idle_seconds=60, let_go=lambda child: None)
    first, last, warming = child(), child(), child(State.WARMING)
    for each in (first, last, warming):
        idle.put(each)
    assert [idle.take(), idle.take(), idle.take(), idle.take()] == [last, first, warming, None]
    idle.close()


async def test_gone_child_is_not_taken() -> None:
    """A child that ended while it was idle is forgotten."""
    idle = IdleChildren(idle_seconds=60, let_go=lambda child: None)
    ended, there = child(), child()
    for each in (there, ended):
        idle.put(each)
    ended.state = State.GONE
    assert idle.all() == [there]
    assert idle.take() is there
    idle.close()


async def test_all_but_one_idle_child_go() -> None:
    """After the idle time the children that worked longest ago are let go."""
    gone: asyncio.Queue[ChildLink] = asyncio.Queue()
    idle = IdleChildren(idle_seconds=0.02, let_go=gone.put_nowait)
    children = [child() for _ in range(3)]
    for each in children:
        idle.put(each)
    assert [await asyncio.wait_for(gone.get(), 5) for _ in range(2)] == children[:2]
    assert idle.all() == children[2:]
