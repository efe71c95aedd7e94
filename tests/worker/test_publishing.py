"""The worker publishes what its processor says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from server.config.settings import Config
from server.services import open_services
from testkit.running import until
from tryon.processor import Info, Role
from worker import publishing
from worker.publishing import Publisher

MakeConfig = Callable[..., Config]


async def test_publisher_keeps_its_lease_until_the_worker_stops(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It publishes when the processor has started, renews, and withdraws at the end."""
    monkeypatch.setattr(publishing, "RENEW_SECONDS", 0.01)
    errors: list[Exception] = []
    started: asyncio.Future[Info] = asyncio.get_running_loop().create_future()

    async def info() -> Info:
        return await started

    async with open_services(config(processor="acme")) as services:
        rows = services.database.processors

        async def living() -> list[tuple[bool, float]]:
            return [(row.living, row.expires_at.timestamp()) for row in await rows.all() if row.setting == "acme"]

        publisher = Publisher(services.sessions.processors, "worker", info, on_error=errors.append)
        async with publisher.running():
            assert await living() == []
            started.set_result(Info(name="fit"))
            seen: set[float] = set()
            async with asyncio.timeout(10):
                while len(seen) < 3:
                    seen |= {expires for alive, expires in await living() if alive}
                    await asyncio.sleep(0)
        assert [alive for alive, _ in await living()] == [False]
    assert not errors


async def test_publisher_refuses_a_processor_that_cannot_judge_uploads(config: MakeConfig) -> None:
    """The worker is told in one line, and publishes nothing."""
    errors: list[Exception] = []

    async def info() -> Info:
        return Info(name="fit", roles=(Role(name="params"),))

    async with open_services(config(processor="acme")) as services:
        async with Publisher(services.sessions.processors, "worker", info, on_error=errors.append).running():
            await until(lambda: errors)
        assert not [row for row in await services.database.processors.all() if row.setting == "acme"]
    assert "params" in str(errors[0]) and "\n" not in str(errors[0])
