"""Requests with the same Idempotency-Key in one process."""

from __future__ import annotations

import asyncio

import pytest

from server.web.api import in_flight
from server.web.api.in_flight import KeysInFlight
from tryon.protocol.errors import Conflict


async def test_serialized_key_admits_one_at_a_time() -> None:
    """A request that comes between a release and the next turn waits, too.

    The first is done and the second has not got its turn: at that moment the lock is
    free.
    """
    keys = KeysInFlight()
    inside = most = 0

    async def request() -> None:
        nonlocal inside, most
        async with keys.serialized("owner", "key"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    async with asyncio.TaskGroup() as group:
        async with keys.serialized("owner", "key"):
            group.create_task(request())
            await asyncio.sleep(0)  # it waits
        await asyncio.gather(request(), request())
    assert most == 1
    assert not len(keys)


async def test_serialized_keys_do_not_wait_for_each_other() -> None:
    """Another owner, or another key of the same owner, enters at once."""
    keys = KeysInFlight()
    async with (
        asyncio.timeout(5),
        keys.serialized("owner", "key"),
        keys.serialized("owner", "other"),
        keys.serialized("other", "key"),
    ):
        assert len(keys) == 3
    assert not len(keys)


async def test_serialized_key_refuses_when_turn_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request gets 409, and the first one keeps its turn."""
    monkeypatch.setattr(in_flight, "IN_FLIGHT_SECONDS", 0.01)
    keys = KeysInFlight()
    async with keys.serialized("owner", "key"):
        with pytest.raises(Conflict) as refusal:
            async with keys.serialized("owner", "key"):
                raise AssertionError("two at a time")
        assert refusal.value.code == "idempotency_in_flight"
        assert len(keys) == 1
    assert not len(keys)
