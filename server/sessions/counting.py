"""The metrics of sessions: counts a committed transition, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from server.adapters.database.changes import Moved
from server.domain.costs import Prices, cost_usd
from server.telemetry import metrics
from tryon.protocol.errors import FAILURES
from tryon.protocol.states import Event

REASONS: Final = frozenset({"lease_lost", "drained", "not_started", "cancelled", *FAILURES})
"""Reasons of a requeue that are labels; a processor's own code is ``other``."""


def count(moved: Moved, prices: Prices) -> None:
    """Count a transition once, right after its commit."""
    event, session = moved.event, moved.session
    metrics.transitions.labels(event.event).inc()
    _count_usage(session.processor, event.data.get("usage") or {}, prices)
    if event.event is Event.PROCESSING and session.attempt == 1:
        waited = event.at - session.created_at
        metrics.pickup_seconds.labels(session.processor).observe(max(0.0, waited.total_seconds()))
    elif event.event is Event.REQUEUED:
        metrics.requeues.labels(metrics.known(str(event.data.get("reason")), REASONS)).inc()
    elif session.status.terminal:
        took = event.at - session.created_at
        metrics.session_seconds.labels(session.processor, session.status).observe(max(0.0, took.total_seconds()))
        if event.event is Event.FAILED:
            metrics.failures.labels(session.processor, metrics.known(session.error_code or "", FAILURES)).inc()


def _count_usage(processor: str, usage: Mapping[str, Any], prices: Prices) -> None:
    if not usage:
        return
    for unit, amount in usage.items():
        if amount:
            metrics.usage.labels(processor, unit).inc(amount)
    if cost := cost_usd(usage, processor, prices):
        metrics.cost_usd.labels(processor).inc(cost)
