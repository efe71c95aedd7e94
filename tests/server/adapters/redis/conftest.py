"""The publishing side on a Redis that is empty at the start."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from server.adapters.redis.bus import RedisBus
from testkit.fixtures import PATIENT_SECONDS
from tests.server.adapters.redis.listening import publisher

AT = "2026-11-22T09:00:00.000Z"


@pytest.fixture
async def bus(redis_url: str) -> AsyncIterator[RedisBus]:
    async with publisher(redis_url, socket_seconds=PATIENT_SECONDS) as bus:
        yield bus
