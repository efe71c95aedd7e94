"""The usage that an attempt reports is counted once, with the event that ends it."""

from __future__ import annotations

import dataclasses

from server.adapters.database.changes import Moved
from server.services import Services
from server.telemetry import metrics
from tests.server.sessions.conftest import begin, submit


async def test_usage_is_counted_when_an_attempt_ends(services: Services) -> None:
    """Credits, cost and GPU seconds by processor; what is unknown counts nothing."""
    claim = await begin(services, await submit(services))
    found = await services.database.reader.with_events(claim.session.id, since=0)
    assert found is not None
    used = {"credits": 2.0, "cost_usd": 0.25, "gpu_seconds": None}
    event = dataclasses.replace(found.events[-1], data={"attempt": 1, "usage": used})
    before = {unit: metrics.usage.labels("mock", unit)._value.get() for unit in used}
    await services.sessions.transitions.announce(Moved(found.session, event))
    after = {unit: metrics.usage.labels("mock", unit)._value.get() for unit in used}
    assert {unit: after[unit] - before[unit] for unit in used} == {"credits": 2.0, "cost_usd": 0.25, "gpu_seconds": 0.0}
