"""The delivery protocol under random interleavings and faults, one run a seed."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from server.domain.bus_message import EVENT
from server.web.push.deliveries import DeliveryLog
from server.web.push.follower import Follower
from server.web.push.followers import Followers
from server.web.push.hub import Hub
from server.web.push.queue_news import QueueNews, _Wait
from server.web.push.recovery import Recovery
from tests.server.web.push.simulation import run_scenario, simulate

pytestmark = pytest.mark.usefixtures("places")
"""Without it the tests of this folder announce no place in the queue, so that the
simulation would find no bug of the announcements.
"""

SEEDS: Final = 150
SEEDS_OF_A_BUG: Final = 300
"""Each planted bug is found by about one seed of 40 at least, most by one of 3."""

TRACED: Final = range(3)

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep thousands of lines about outages out of the log."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def first_violation(seeds: range) -> tuple[int, list[str]] | None:
    for seed in seeds:
        if violations := simulate(seed):
            return seed, violations
    return None


def test_clients_are_given_every_transition_once_in_order() -> None:
    """Whatever is lost, late, repeated or unavailable, and whoever leaves meanwhile."""
    assert first_violation(range(SEEDS)) is None


def traces() -> str:
    """Return a digest of what the clients of some runs were given, and when."""
    return hashlib.sha256("\n".join(line for seed in TRACED for line in run_scenario(seed).trace).encode()).hexdigest()


async def test_seed_gives_the_same_run_in_every_process() -> None:
    """Else a seed that found something could not be looked into."""
    here = await asyncio.to_thread(traces)
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"from {__name__} import traces; print(traces())",
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert output.decode().split() == [here]


# -- bugs that a run must find ---------------------------------------------------------


def delivers_over_a_hole(patch: pytest.MonkeyPatch) -> None:
    offer = Follower.offer

    def planted(follower: Follower, kind: int, seq: int, frame: bytes) -> bool:
        if kind == EVENT and follower.seq is not None and seq > follower.seq:
            follower.seq = seq - 1
        return offer(follower, kind, seq, frame)

    patch.setattr(Follower, "offer", planted)


def repeats_an_event(patch: pytest.MonkeyPatch) -> None:
    resume = Follower.resume

    def planted(follower: Follower, seq: int) -> bool:
        return resume(follower, max(1, seq - 1))

    patch.setattr(Follower, "resume", planted)


def holds_nothing(patch: pytest.MonkeyPatch) -> None:
    offer = Follower.offer

    def planted(follower: Follower, kind: int, seq: int, frame: bytes) -> bool:
        return follower.seq is None or offer(follower, kind, seq, frame)

    patch.setattr(Follower, "offer", planted)


def fills_no_hole(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "catch_up", lambda recovery, session_id: None)


def sweeps_nothing(patch: pytest.MonkeyPatch) -> None:
    async def planted(recovery: Recovery) -> None:
        pass

    patch.setattr(Recovery, "_sweep", planted)


def forgets_tombstones(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "_end_erased", lambda recovery, tombstones: None)


def lists_sessions_without_followers(patch: pytest.MonkeyPatch) -> None:
    note = QueueNews.note

    def planted(news: QueueNews, session_id: str, seq: int, *, waits: bool) -> None:
        note(news, session_id, seq, waits=waits)
        if waits:
            news._waiting.setdefault(session_id, _Wait(seq, None))

    patch.setattr(QueueNews, "note", planted)


def lists_running_sessions(patch: pytest.MonkeyPatch) -> None:
    """Let an old transition that is read again count."""

    def planted(news: QueueNews, session_id: str, seq: int, *, waits: bool) -> None:
        if waits and (followers := news._followers.of(session_id)):
            news._waiting[session_id] = _Wait(max(follower.seq or seq for follower in followers), None)
        else:
            news._waiting.pop(session_id, None)

    patch.setattr(QueueNews, "note", planted)


def follows_a_client_that_left(patch: pytest.MonkeyPatch) -> None:
    release = Hub.release

    def planted(hub: Hub, follower: Follower, session: Any) -> None:
        hub.registry.add(follower)
        release(hub, follower, session)

    patch.setattr(Hub, "release", planted)
    patch.setattr(Followers, "__contains__", lambda followers, follower: True)


def notes_an_end_that_was_not_given(patch: pytest.MonkeyPatch) -> None:
    def planted(log: DeliveryLog, followers: Any, seq: int) -> None:
        if followers:
            log.note(followers[0].session_id)

    patch.setattr(DeliveryLog, "note_offered", planted)


BUGS: Final[list[Plant]] = [
    delivers_over_a_hole, repeats_an_event, holds_nothing, fills_no_hole, sweeps_nothing,
    forgets_tombstones, lists_sessions_without_followers, lists_running_sessions,
    follows_a_client_that_left, notes_an_end_that_was_not_given,
]  # fmt: skip


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, plant: Plant) -> None:
    """Else a run that finds nothing would say nothing."""
    plant(monkeypatch)
    found = first_violation(range(SEEDS_OF_A_BUG))
    assert found is not None
    print(f"found at seed {found[0]}: {found[1][0]}")
