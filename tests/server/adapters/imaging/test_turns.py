"""The order of waiting photos, decided without a process."""

from __future__ import annotations

import io

from server.adapters.imaging.photo_job import PhotoJob
from server.adapters.imaging.turns import Turns


def turns_with(addresses: str, *, workers: int = 2) -> Turns:
    """Return turns in which a photo of each of these addresses waits."""
    turns = Turns(workers)
    for address in addresses:
        turns.add(PhotoJob(io.BytesIO(), address))
    return turns


def taken(turns: Turns) -> list[PhotoJob]:
    """Take every photo that may begin now."""
    jobs = []
    while (job := turns.take()) is not None:
        jobs.append(job)
    return jobs


def addresses(jobs: list[PhotoJob]) -> str:
    return "".join(job.address for job in jobs)


async def test_address_alone_uses_every_worker() -> None:
    """Nobody else waits, so a photo and its garment go side by side."""
    turns = turns_with("aaa")
    assert turns.startable() == 2
    assert addresses(taken(turns)) == "aa"
    assert (len(turns), turns.startable()) == (1, 0)


async def test_address_begins_one_photo_while_another_waits() -> None:
    """Each of the first two addresses has one photo at work, the third waits."""
    turns = turns_with("aaabbc")
    assert turns.startable() == 2
    jobs = taken(turns)
    assert addresses(jobs) == "ab"
    turns.end(jobs[0])
    assert turns.startable() == 1
    assert addresses(taken(turns)) == "c"


async def test_address_begins_beside_two_of_another() -> None:
    """The bound is on addresses then: one more process, and no further one."""
    turns = turns_with("aaa")
    assert addresses(taken(turns)) == "aa"
    for address in "bbc":
        turns.add(PhotoJob(io.BytesIO(), address))
    assert turns.startable() == 1
    assert addresses(taken(turns)) == "b"
    assert turns.startable() == 0


async def test_photo_put_back_is_next() -> None:
    """A process that ended before it began costs the photo no turn."""
    turns = turns_with("aab")
    job = turns.take()
    assert job is not None
    turns.put_back(job)
    assert turns.take() is job


async def test_discarded_photo_has_no_turn() -> None:
    """A photo at work is not discarded; one that waits is, once."""
    turns = turns_with("aab", workers=1)
    working = turns.take()
    assert working is not None
    waiting = list(turns)[-1]
    for job in (working, waiting, waiting):
        turns.discard(job)
    assert len(turns) == 1
    turns.end(working)
    assert len(taken(turns)) == 1
    assert len(turns) == 0


async def test_greedy_address_gives_way() -> None:
    """Its newest photo does; nothing gives way to the greedy address itself."""
    turns = turns_with("abaa")
    newest = list(turns)[-2]
    assert turns.newest_of_most("b") is turns.newest_of_most("c") is newest
    assert newest.address == "a"
    assert turns.newest_of_most("a") is None
    assert Turns(1).newest_of_most("a") is None
