"""One check serves all requests of a second."""

from __future__ import annotations

import asyncio

import pytest

from server.web.api.shared_check import SHARED_SECONDS, SharedCheck
from testkit.clocks import ManualClock
from testkit.running import Web

pytestmark = pytest.mark.usefixtures("shared_health")


class Part:
    """A part of the service that answers when its gate opens."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def check(self) -> int:
        """Return the number of the call, or raise :attr:`error`."""
        self.calls += 1
        number = self.calls
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return number


async def test_concurrent_requests_share_one_check() -> None:
    """A request that is given up takes the check of the others nowhere."""
    part, clock = Part(), ManualClock()
    shared = SharedCheck(part.check, clock)
    waiting = [asyncio.create_task(shared.result()) for _ in range(100)]
    await asyncio.sleep(0)
    clock.advance(10 * SHARED_SECONDS)
    late = asyncio.create_task(shared.result())
    await asyncio.sleep(0)
    waiting[0].cancel()
    part.gate.set()
    assert await asyncio.gather(*waiting[1:], late) == [1] * 100


async def test_result_lasts_a_second() -> None:
    """From the begin of its check; the next request checks again."""
    part, clock = Part(), ManualClock()
    part.gate.set()
    shared = SharedCheck(part.check, clock)
    assert [await shared.result() for _ in range(3)] == [1, 1, 1]
    clock.advance(SHARED_SECONDS * 0.99)
    assert await shared.result() == 1
    clock.advance(SHARED_SECONDS * 0.02)
    assert [await shared.result(), await shared.result()] == [2, 2]


async def test_failure_is_shared_too() -> None:
    """An outage is no reason to ask a broken part more often."""
    part, clock = Part(), ManualClock()
    part.gate.set()
    part.error = OSError("broken")
    shared = SharedCheck(part.check, clock)
    for _ in range(3):
        with pytest.raises(OSError, match="broken"):
            await shared.result()
    assert part.calls == 1


async def test_health_asks_each_part_once(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty requests for health and readiness at once are one query."""
    reader = type(web.database.reader)
    check, calls = reader.check, 0

    async def counted(self: object) -> None:
        nonlocal calls
        calls += 1
        await check(self)  # type: ignore[arg-type]  # the reader it was called on

    monkeypatch.setattr(reader, "check", counted)
    monkeypatch.setattr("server.web.api.shared_check.SHARED_SECONDS", 3600.0)
    paths = ["/api/health", "/api/health/ready"] * 25
    answers = await asyncio.gather(*(web.client.get(path) for path in paths))
    assert {answer.status_code for answer in answers} == {200}
    assert calls == 1
