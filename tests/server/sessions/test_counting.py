"""Every transition is counted once, with the times that it ends."""

from __future__ import annotations

import dataclasses

import pytest
from prometheus_client import REGISTRY

from server.adapters.database.changes import Moved
from server.services import Services
from server.sessions.counting import count
from tests.server.sessions.conftest import begin, submit
from tryon.protocol.states import Event, Status


def sample(name: str, **labels: str) -> float:
    """Return a sample of this process; 0 before its first event."""
    return REGISTRY.get_sample_value(f"tryon_{name}", labels) or 0.0


async def test_first_claim_is_pickup(services: Services) -> None:
    """From the creation; a second claim of the session is none."""
    before = sample("pickup_seconds_count", processor="mock")
    claim = await begin(services, await submit(services))
    assert sample("pickup_seconds_count", processor="mock") == before + 1
    await services.sessions.claims.requeue(claim, burnt=False, reason="drained")
    await begin(services, claim.session)
    assert sample("pickup_seconds_count", processor="mock") == before + 1


async def test_requeue_counts_its_reason(services: Services) -> None:
    """A code that a processor made up is another reason; the attempt's time counts."""
    before = {reason: sample("requeues_total", reason=reason) for reason in ("drained", "other")}
    runs = sample("run_seconds_count", processor="mock", outcome="requeued")
    claim = await begin(services, await submit(services))
    await services.sessions.claims.requeue(claim, burnt=False, reason="drained")
    claim = await begin(services, claim.session)
    await services.sessions.claims.requeue(claim, burnt=False, reason="my-own-code-17")
    assert sample("requeues_total", reason="drained") == before["drained"] + 1
    assert sample("requeues_total", reason="other") == before["other"] + 1
    assert sample("requeues_total", reason="my-own-code-17") == 0.0
    assert sample("run_seconds_count", processor="mock", outcome="requeued") == runs + 2


async def test_failure_counts_its_code(services: Services) -> None:
    """By processor; a code of a processor's own is ``other``."""
    for code, label in (("moderated_input", "moderated_input"), ("upstream-said-no", "other")):
        failed = sample("failures_total", processor="mock", code=label)
        ended = sample("session_seconds_count", processor="mock", status="failed")
        ran = sample("run_seconds_count", processor="mock", outcome="failed")
        claim = await begin(services, await submit(services))
        await services.sessions.claims.fail(claim, code)
        assert sample("failures_total", processor="mock", code=label) == failed + 1
        assert sample("session_seconds_count", processor="mock", status="failed") == ended + 1
        assert sample("run_seconds_count", processor="mock", outcome="failed") == ran + 1


async def test_usage_is_priced(services: Services) -> None:
    """As the settings say, once for the event that ends the attempt."""
    claim = await begin(services, await submit(services))
    found = await services.database.reader.with_events(claim.session.id, since=0)
    assert found is not None
    data = {"attempt": 1, "usage": {"gpu_seconds": 20.0, "credits": None}}
    event = dataclasses.replace(found.events[-1], event=Event.COMPLETED, data=data)
    ended = dataclasses.replace(found.session, status=Status.COMPLETED)
    before = sample("cost_usd_total", processor="mock")
    count(Moved(ended, event), {"gpu_seconds": 0.002})
    assert sample("cost_usd_total", processor="mock") - before == pytest.approx(0.04)
