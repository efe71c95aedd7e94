"""Liveness, readiness and the whole picture of the service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from server.adapters.redis.errors import QueueUnavailable
from server.services import Services
from server.system import sandbox
from server.web.api.private_paths import PrivatePaths
from server.web.api.shared_check import SharedCheck
from server.web.common.answers import json_response
from server.web.push.hub import Hub
from tryon.protocol.errors import TryOnError, Unavailable
from tryon.protocol.frames import encode

CHECK_SECONDS: Final = 2.0
"""Seconds until a part that does not answer counts as down."""


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of one part of the service.

    ``seconds``: how long the check took; for Redis, how long a published message takes
    to come back.
    """

    status: str
    seconds: float | None = None
    count: int | None = None
    detail: str | None = None


class Health(msgspec.Struct, frozen=True):
    """The state of the service.

    ``down``: uploads cannot be accepted. ``degraded``: they can, but something is
    slower or missing.
    """

    status: str
    checks: dict[str, Check]


class HealthEndpoints:
    """The endpoints that monitoring reads."""

    def __init__(self, services: Services, hub: Hub) -> None:
        self._queue = services.queue
        self._queue_limit = services.config.queue_limit
        self._clock = services.clock
        self._hub = hub
        self._private = PrivatePaths(services.config)
        reader, files = services.database.reader, services.files
        self._database = SharedCheck(lambda: self._check(reader.check), services.clock)
        self._storage = SharedCheck(lambda: self._check(files.check), services.clock)
        self._workers = SharedCheck(self._check_workers, services.clock)
        self._waiting = SharedCheck(self._check_queue, services.clock)
        self._processors, self._due = services.sessions.processors, services.database.due
        self._processor = SharedCheck(self._check_processor, services.clock)
        lacking = sandbox.missing_here()
        self._sandbox = Check("degraded", detail=f"This machine lacks {lacking}.") if lacking else Check("ok")

    async def health(self, request: Request) -> Response:
        """Answer with every check: 503 while uploads cannot be accepted, else 200.

        Raises NotFound or Unauthorized for a caller that may not read private paths.
        """
        self._private.check(request.scope)
        database, storage, workers, queue, processor = await asyncio.gather(
            self._database.result(),
            self._storage.result(),
            self._workers.result(),
            self._waiting.result(),
            self._processor.result(),
        )
        picture = {
            "database": database,
            "storage": storage,
            "redis": self._check_redis(),
            "workers": workers,
            "queue": queue,
            "processor": processor,
            "sandbox": self._sandbox,
        }
        if any(check.status == "down" for check in picture.values()):
            status = "down"
        else:
            status = "ok" if all(check.status == "ok" for check in picture.values()) else "degraded"
        return json_response(encode(Health(status, picture)), 503 if status == "down" else 200)

    async def live(self, request: Request) -> Response:
        """Answer 200 as long as the event loop turns: a restart helps nothing else."""
        return json_response(encode(Health("ok", {})))

    async def ready(self, request: Request) -> Response:
        """Answer 200 if requests should be sent here, else 503.

        Redis being unavailable is only ``degraded``: uploads and pushes go on without
        it.
        """
        if self._hub.draining:
            return json_response(encode(Health("down", {"draining": Check("down")})), 503)
        database, storage = await asyncio.gather(self._database.result(), self._storage.result())
        redis = Check("ok" if self._hub.delivers else "degraded")
        down = "down" in (database.status, storage.status)
        status = "down" if down else redis.status
        checks = {"database": database, "storage": storage, "redis": redis}
        return json_response(encode(Health(status, checks)), 503 if down else 200)

    async def _check(self, call: Callable[[], Awaitable[Any]]) -> Check:
        begin = self._clock.monotonic()
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await call()
        except (TryOnError, TimeoutError) as error:
            return Check("down", detail=error.detail if isinstance(error, TryOnError) else "No answer in time.")
        return Check("ok", seconds=round(self._clock.monotonic() - begin, 6))

    def _check_redis(self) -> Check:
        """Check that published messages come back, not only that Redis answers."""
        delay = self._hub.probe.delay_seconds
        if delay is None or not self._hub.delivers:
            return Check("degraded", detail="Redis delivers no messages; clients are served from the database.")
        return Check("ok", seconds=round(delay, 6))

    async def _check_workers(self) -> Check:
        try:
            seen = len(await self._queue.workers())
        except QueueUnavailable:
            return Check("degraded", detail="Redis is unavailable.")
        return Check("ok" if seen else "degraded", count=seen, detail=None if seen else "No worker was seen lately.")

    async def _check_processor(self) -> Check:
        """Check that there is a processor to judge uploads by, and only one.

        And that every session that waits has a worker which may run it.
        """
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                current, lacking = await self._processors.current(), await self._lacking()
        except Unavailable as error:
            return Check("down", detail=error.detail)
        except TimeoutError:
            return Check("down", detail="No answer in time.")
        detail = " ".join(each for each in (current.disagreement, lacking) if each)
        return Check("degraded" if detail else "ok", detail=detail or None)

    async def _lacking(self) -> str:
        """Return which processors sessions wait for that no living worker has."""
        running = await self._processors.running()
        if not running:  # `workers` says so
            return ""
        waiting = await self._due.waiting_for()
        return " ".join(
            f"No worker has the processor {name}; sessions that wait for it, until their deadline: {count}."
            for name, count in sorted(waiting.items())
            if name not in running
        )

    async def _check_queue(self) -> Check:
        try:
            waiting = await self._queue.depth()
        except QueueUnavailable:
            return Check("degraded", detail="Redis is unavailable.")
        return Check("degraded" if waiting >= self._queue_limit else "ok", count=waiting)
