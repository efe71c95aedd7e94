"""Views of rows for operators: pure functions, without any read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from server.adapters.database.operator_actions import OperatorAction
from server.adapters.database.overview import Described, Ended, Holder, Transition, Waits
from server.domain.operator import (
    MAX_STEPS,
    Action,
    FailureCount,
    ProcessorState,
    QueueState,
    SessionRow,
    Step,
    WorkerState,
)
from server.domain.session import Session, timestamp
from tryon.protocol.states import Status


def session_row(session: Session, steps: Sequence[Step]) -> SessionRow:
    """Return a session as operators see it."""
    return SessionRow(
        session_id=session.id,
        status=session.status.value,
        seq=session.seq,
        attempt=session.attempt,
        burnt=session.burnt,
        processor=session.processor,
        created_at=timestamp(session.created_at),
        finished_at=_time(session.finished_at),
        deadline_at=timestamp(session.deadline_at),
        cancel_requested=session.cancel_requested,
        worker=None if session.lease_owner is None else worker_of(session.lease_owner),
        lease_expires_at=_time(session.lease_expires_at),
        error_code=session.error_code,
        request_id=session.request_id,
        retry_of=session.retry_of,
        steps=list(steps[-MAX_STEPS:]),
    )


def steps_of(transitions: Iterable[Transition]) -> list[Step]:
    """Return the timeline of a session."""
    return [
        Step(each.seq, each.event, each.status, timestamp(each.at), each.attempt, each.reason) for each in transitions
    ]


def worker_of(lease_owner: str) -> str:
    """Return the worker that holds a lease, without the number of its run."""
    return lease_owner.partition("#")[0]


def queue_state(unfinished: Sequence[Waits], *, jobs: int | None, limit: int) -> QueueState:
    """Return the queue, from the sessions that have not ended and the jobs in Redis."""
    waiting = [each for each in unfinished if each.status is Status.CREATED]
    return QueueState(
        waiting=sum(each.count for each in waiting),
        running=sum(each.count for each in unfinished if each.status is Status.PROCESSING),
        oldest_at=_time(min((each.oldest_at for each in waiting), default=None)),
        jobs=jobs,
        limit=limit,
        by_processor={each.processor: each.count for each in sorted(waiting, key=lambda each: each.processor)},
    )


def worker_states(
    seen: Mapping[str, float], holders: Sequence[Holder], described: Sequence[Described]
) -> list[WorkerState]:
    """Return the workers that were seen, that hold claims, or that have published."""
    jobs: Counter[str] = Counter()
    ends: dict[str, datetime] = {}
    for each in holders:
        worker = worker_of(each.lease_owner)
        jobs[worker] += each.count
        ends[worker] = min(each.expires_at, ends.get(worker, each.expires_at))
    published = {each.worker: each for each in described}
    return [
        WorkerState(
            worker=worker,
            seen_seconds=seen.get(worker),
            jobs=jobs[worker],
            lease_expires_at=_time(ends.get(worker)),
            processor=published[worker].processor if worker in published else None,
            version=published[worker].version if worker in published else None,
        )
        for worker in sorted({*seen, *jobs, *published})
    ]


def failure_counts(ended: Sequence[Ended]) -> list[FailureCount]:
    """Return the failures by their code, the most frequent first."""
    counts = Counter(each.error_code for each in ended if each.status is Status.FAILED and each.error_code)
    return [FailureCount(code, count) for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def processor_states(ended: Sequence[Ended]) -> list[ProcessorState]:
    """Return how long the sessions of each processor took, the slowest first."""
    by_processor: defaultdict[str, list[Ended]] = defaultdict(list)
    for each in ended:
        by_processor[each.processor].append(each)
    states = [_processor_state(name, of_it) for name, of_it in by_processor.items()]
    return sorted(states, key=lambda state: (-(state.run_p95 or 0.0), state.processor))


def _processor_state(name: str, ended: Sequence[Ended]) -> ProcessorState:
    completed = [each for each in ended if each.status is Status.COMPLETED]
    begun = [(each.created_at, each.begun_at, each.finished_at) for each in completed if each.begun_at is not None]
    waits = sorted((at - created).total_seconds() for created, at, _ in begun)
    runs = sorted((end - at).total_seconds() for _, at, end in begun)
    return ProcessorState(
        processor=name,
        completed=len(completed),
        failed=sum(each.status is Status.FAILED for each in ended),
        wait_p50=percentile(waits, 0.5),
        wait_p95=percentile(waits, 0.95),
        run_p50=percentile(runs, 0.5),
        run_p95=percentile(runs, 0.95),
    )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the smallest value that this share of all is not above; None of none."""
    if not ordered:
        return None
    return round(ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)], 3)


def actions_of(rows: Sequence[OperatorAction], ids: Mapping[str, str]) -> list[Action]:
    """Return actions with the ids of those sessions whose hash is in ``ids``."""
    return [
        Action(
            id=row.id,
            at=timestamp(row.at),
            operator=row.operator,
            action=row.action,
            session=row.session_hash[:8],
            session_id=ids.get(row.session_hash),
            outcome=row.outcome,
            request_id=row.request_id,
        )
        for row in rows
    ]


def changed(before: Mapping[str, SessionRow], now: Collection[SessionRow]) -> tuple[list[SessionRow], list[str]]:
    """Return the rows that are new or differ, and the ids that are gone."""
    ids = {row.session_id for row in now}
    return [row for row in now if before.get(row.session_id) != row], [each for each in before if each not in ids]


def _time(at: datetime | None) -> str | None:
    return None if at is None else timestamp(at)
