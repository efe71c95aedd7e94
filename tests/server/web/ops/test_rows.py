"""What operators are shown of rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from server.adapters.database.overview import Described, Ended, Holder, Waits
from server.web.ops.rows import failure_counts, percentile, processor_states, queue_state, worker_states
from tryon.protocol.states import Status

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def ended(
    status: Status, processor: str = "mock", *, waited: float = 1, ran: float = 2, code: str | None = None
) -> Ended:
    begun = NOW + timedelta(seconds=waited)
    return Ended(status, processor, code, NOW, begun, begun + timedelta(seconds=ran))


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [([], 0.5, None), ([7], 0.95, 7), ([1, 2, 3, 4], 0.5, 2), (list(range(1, 101)), 0.95, 95), ([1, 2, 3], 0.95, 3)],
)
def test_percentile_is_a_value_that_was_measured(values: list[float], share: float, wanted: float | None) -> None:
    """It is the smallest that this share of all does not exceed."""
    assert percentile(values, share) == wanted


def test_slowest_processor_comes_first() -> None:
    """Failures count, and take no part in durations."""
    states = processor_states(
        [
            ended(Status.COMPLETED, "quick", ran=1),
            ended(Status.FAILED, "quick", ran=99),
            *(ended(Status.COMPLETED, "slow", waited=3, ran=seconds) for seconds in (4, 5, 6)),
        ]
    )
    assert [(each.processor, each.completed, each.failed) for each in states] == [("slow", 3, 0), ("quick", 1, 1)]
    assert (states[0].wait_p95, states[0].run_p50, states[0].run_p95) == (3, 5, 6)
    assert states[1].run_p95 == 1


def test_failures_are_counted_by_code() -> None:
    """The most frequent comes first."""
    counts = failure_counts([ended(Status.FAILED, code=code) for code in ("b", "a", "b")] + [ended(Status.COMPLETED)])
    assert [(each.code, each.count) for each in counts] == [("b", 2), ("a", 1)]


def test_workers_are_joined_from_three_sources() -> None:
    """A silent worker with a lease is listed, and one without work, too."""
    soon, later = NOW, NOW + timedelta(seconds=9)
    states = worker_states(
        {"idle:1:aa": 2.0, "busy:1:bb": 0.0},
        [Holder("busy:1:bb#1", 2, later), Holder("busy:1:bb#2", 1, soon), Holder("dead:1:cc#0", 1, soon)],
        [Described("busy:1:bb", "cog", "1.2")],
    )
    assert [(each.worker, each.jobs, each.seen_seconds, each.processor) for each in states] == [
        ("busy:1:bb", 3, 0.0, "cog"),
        ("dead:1:cc", 1, None, None),
        ("idle:1:aa", 0, 2.0, None),
    ]
    assert states[0].lease_expires_at == "2026-01-01T00:00:00.000Z"


def test_queue_counts_waiting_and_running() -> None:
    """The oldest is that of all processors."""
    old, new = NOW, NOW + timedelta(seconds=5)
    state = queue_state(
        [Waits(Status.CREATED, "b", 2, new), Waits(Status.CREATED, "a", 1, old), Waits(Status.PROCESSING, "a", 4, old)],
        jobs=None,
        limit=10,
    )
    assert (state.waiting, state.running, state.jobs) == (3, 4, None)
    assert state.by_processor == {"a": 1, "b": 2}
    assert state.oldest_at == "2026-01-01T00:00:00.000Z"
