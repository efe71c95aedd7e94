"""`/metrics`: the counts of the processes, and facts of the whole installation.

A fact such as the depth of the queue is measured once for an answer, by the process
that gives it, and is in no file. Each web process that is scraped reports the same, so
a query over several of them takes ``max``, never ``sum``. A part that cannot be asked
leaves its facts out: Prometheus then knows that it does not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from server.adapters.database.due import Backlog
from server.adapters.redis.errors import QueueUnavailable
from server.services import Services
from server.telemetry import metrics
from server.web.api.private_paths import PrivatePaths
from server.web.api.shared_check import SharedCheck
from server.web.push.hub import Hub
from tryon.protocol.errors import TryOnError
from tryon.protocol.states import Status

MEASURE_SECONDS: Final = 2.0
"""Maximum time for all measurements of an answer; they run side by side."""

EXPIRED_COUNTED: Final = 10_000
"""Maximum of ``tryon_expired_waiting``: to count more would read too many rows."""

_T = TypeVar("_T")

FACTS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "tryon_up": ("Whether a part can be used: 1 or 0.", ("part",)),
    "tryon_sessions": ("Sessions that wait (created) or run (processing).", ("status", "processor")),
    "tryon_queue_depth": ("Jobs that wait in Redis.", ()),
    "tryon_queue_limit": ("Waiting sessions beyond which uploads are refused.", ()),
    "tryon_queue_oldest_seconds": ("Age of the oldest session that waits.", ("processor",)),
    "tryon_workers": ("Workers seen in the last 10 s.", ()),
    "tryon_expired_waiting": ("Expired sessions that are not removed yet, at most 10,000.", ()),
    "tryon_storage_free_bytes": ("Room that is left in the storage, where it has a limit.", ()),
}
"""Meaning and labels of each fact, by name."""


class _Facts(Collector):
    """Samples of one measurement, by name and labels."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[tuple[str, ...], float]] = {}

    def note(self, name: str, value: float, *labels: str) -> None:
        self.samples.setdefault(name, {})[labels] = value

    def collect(self) -> Iterable[Metric]:
        return self._families()

    def _families(self) -> Iterator[Metric]:
        for name, (meaning, labels) in FACTS.items():
            if name in self.samples:
                family = GaugeMetricFamily(name, meaning, labels=labels)
                for values, value in self.samples[name].items():
                    family.add_metric(values, value)
                yield family


class MetricsEndpoint:
    """The page that Prometheus reads."""

    def __init__(self, services: Services, hub: Hub) -> None:
        self._config = services.config
        self._queue, self._files = services.queue, services.files
        self._due, self._reader = services.database.due, services.database.reader
        self._database_clock = services.database.clock
        self._hub = hub
        self._private = PrivatePaths(services.config)
        self._facts = SharedCheck(self._measure, services.clock)

    async def metrics(self, request: Request) -> Response:
        """Answer with all metrics in Prometheus's text format.

        Raises NotFound or Unauthorized for a caller that may not read private paths.
        """
        self._private.check(request.scope)
        facts = await self._facts.result()
        self._hub.meter.flush()
        page = await asyncio.to_thread(metrics.render_metrics, facts)  # milliseconds that no push shall wait
        return Response(page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _measure(self) -> _Facts:
        facts = _Facts()
        parts = asyncio.gather(_answer(_done(self._reader.check())), _answer(_done(self._files.check())))
        counts = asyncio.gather(
            _answer(self._due.count_expired(EXPIRED_COUNTED)),
            _answer(self._files.free_bytes()),
            _answer(self._queue.depth()),
            _answer(self._queue.workers()),
        )
        backlog = await _answer(self._due.backlog())
        database, storage = await parts
        expired, free, depth, workers = await counts
        facts.note("tryon_up", database is not None, "database")
        facts.note("tryon_up", storage is not None, "storage")
        facts.note("tryon_up", self._hub.delivers, "redis")
        facts.note("tryon_queue_limit", self._config.queue_limit)
        if backlog is not None:
            self._note_backlog(facts, backlog)
        for name, value in (
            ("tryon_expired_waiting", expired),
            ("tryon_storage_free_bytes", free),
            ("tryon_queue_depth", depth),
            ("tryon_workers", None if workers is None else len(workers)),
        ):
            if value is not None:
                facts.note(name, value)
        return facts

    def _note_backlog(self, facts: _Facts, backlog: Iterable[Backlog]) -> None:
        for processor in self._config.processors:  # an alert needs the zero
            facts.note("tryon_queue_oldest_seconds", 0.0, processor)
            for status in (Status.CREATED, Status.PROCESSING):
                facts.note("tryon_sessions", 0.0, status, processor)
        now = self._database_clock.now()
        for each in backlog:
            facts.note("tryon_sessions", each.sessions, each.status, each.processor)
            if each.status is Status.CREATED:
                age = max(0.0, now - each.oldest.timestamp())
                facts.note("tryon_queue_oldest_seconds", age, each.processor)


async def _done(call: Awaitable[object]) -> bool:
    await call
    return True


async def _answer(call: Awaitable[_T]) -> _T | None:
    """Return what a part answers; None if it cannot, or not in time."""
    try:
        async with asyncio.timeout(MEASURE_SECONDS):
            return await call
    except (TryOnError, QueueUnavailable, TimeoutError):
        return None
