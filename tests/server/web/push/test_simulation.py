"""The delivery protocol under random interleavings and faults, one run a seed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from server.domain.bus_message import EVENT
from server.web.push.deliveries import DeliveryLog
from server.web.push.follower import Follower
from server.web.push.followers import Followers
from server.web.push.hub import Hub
from server.web.push.recovery import Recovery
from tests.server.web.push.simulation import simulate

SEEDS: Final = 200
SEEDS_OF_A_BUG: Final = 300

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


def fills_no_hole(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "catch_up", lambda recovery, session_id: None)


def sweeps_nothing(patch: pytest.MonkeyPatch) -> None:
    async def planted(recovery: Recovery) -> None:
        pass

    patch.setattr(Recovery, "_sweep", planted)


def forgets_tombstones(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "_end_erased", lambda recovery, tombstones: None)


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
    delivers_over_a_hole, repeats_an_event, fills_no_hole, sweeps_nothing, forgets_tombstones,
    follows_a_client_that_left, notes_an_end_that_was_not_given,
]  # fmt: skip


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, plant: Plant) -> None:
    """Else a run that finds nothing would say nothing."""
    plant(monkeypatch)
    found = first_violation(range(SEEDS_OF_A_BUG))
    assert found is not None
    print(f"found at seed {found[0]}: {found[1][0]}")
