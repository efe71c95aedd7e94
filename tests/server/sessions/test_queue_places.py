"""Places in the queue: read once for all clients, and known at once to an uploader."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.adapters.redis.errors import QueueUnavailable
from server.domain.queue_place import Waiting
from server.sessions import queue_places
from server.sessions.queue_places import QueuePlaces
from testkit.running import until


class FakeQueue:
    """A queue of ids; its sessions run for 10 s each, on one worker."""

    def __init__(self, *ids: str) -> None:
        self.ids = list(ids)
        self.readings = 0
        self.available = True

    async def order(self, limit: int) -> list[str]:
        """Return the ids; raise QueueUnavailable while Redis is unavailable."""
        self.readings += 1
        await asyncio.sleep(0)
        if not self.available:
            raise QueueUnavailable
        return self.ids[:limit]

    async def run_seconds(self, processor: str) -> float:
        """Return the usual duration of a session."""
        return 10.0

    async def workers(self) -> dict[str, float]:
        """Return one worker, and when it was last heard, in Unix seconds."""
        return {"one": 0.0}


def places_of(queue: Any) -> QueuePlaces:
    """Return the places in this queue; a worker runs two sessions at once."""
    return QueuePlaces(queue=queue, processor="mock", queue_limit=100, worker_jobs=2)


async def test_queue_is_read_once_for_many_clients() -> None:
    """Give the same places to twenty clients for one reading of the queue."""
    queue = FakeQueue("a", "b", "c")
    places = places_of(queue)
    answers = await asyncio.gather(*(places.current() for _ in range(20)))
    assert all(answer is answers[0] for answer in answers)
    assert answers[0] == {"a": Waiting(1, 10.0), "b": Waiting(2, 10.0), "c": Waiting(3, 20.0)}
    assert queue.readings == 1


async def test_queue_is_read_again_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return another object once the last reading is too old."""
    monkeypatch.setattr(queue_places, "WAITING_SECONDS", 0.0)
    queue = FakeQueue("a", "b")
    places = places_of(queue)
    before = await places.current()
    queue.ids.remove("a")
    assert await places.current() == {"b": Waiting(1, 10.0)}
    assert before == {"a": Waiting(1, 10.0), "b": Waiting(2, 10.0)}


async def test_joined_session_has_its_place_at_once() -> None:
    """Add a session that was enqueued after the last reading."""
    places = places_of(FakeQueue("a"))
    await places.current()
    places.join("b", 2)
    assert await places.current() == {"a": Waiting(1, 10.0), "b": Waiting(2, 10.0)}


async def test_session_that_joins_during_a_reading_stays() -> None:
    """Keep a place that the reading under way may not contain."""
    queue = FakeQueue("a")
    places = places_of(queue)
    reading = asyncio.create_task(places.current())
    await until(lambda: queue.readings == 1)
    places.join("b", 2)
    assert set(await reading) == {"a", "b"}


async def test_places_are_empty_when_redis_is_unavailable() -> None:
    """Give no client a place while the queue cannot be read."""
    queue = FakeQueue("a")
    queue.available = False
    assert await places_of(queue).current() == {}
