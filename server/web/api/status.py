"""What can be asked with a plain GET: a session, its history, its files, and how the
service is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from server.adapters.files.port import MissingFile, OpenFile
from server.adapters.redis.queue import QueueAway
from server.domain.images import MEDIA_TYPES
from server.services import Services
from server.telemetry import metrics
from server.web.common.answers import json_response
from server.web.common.credentials import credential_of
from server.web.push.hub import Hub
from tryon.protocol.errors import NotFound, TryOnError
from tryon.protocol.frames import encode

log = logging.getLogger("tryon.web")

CHECK_SECONDS: Final = 2.0


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """One part of the health picture.

    ``seconds``: how long the check took (Redis: how long news travels).
    """

    status: str
    seconds: float | None = None
    count: int | None = None
    detail: str | None = None


class Health(msgspec.Struct, frozen=True):
    """``down``: uploads cannot be accepted.

    ``degraded``: they can, but something is slower or missing.
    """

    status: str
    checks: dict[str, Check]


class _StoredFile(FileResponse):
    """The answer with a stored file, Range included.

    The file is opened before the answer begins: erased until then, it is a 404; erased
    later, the download still ends well.
    """

    def __init__(self, file: OpenFile, name: str, *, headers: dict[str, str]) -> None:
        media_type = MEDIA_TYPES.get(name.rpartition(".")[2], "application/octet-stream")
        status = os.stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, file.size, 0, file.modified_at, 0))
        super().__init__(name, media_type=media_type, headers=headers, stat_result=status)
        self._file = file

    @contextlib.asynccontextmanager
    async def _open_file(self) -> AsyncIterator[Any]:
        # Starlette opens a path here; the storage has opened its file already.
        yield self._file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._file.aclose()


class Status:
    """The endpoints; each reads, none writes."""

    def __init__(self, services: Services, hub: Hub) -> None:
        self._services = services
        self._sessions = services.sessions
        self._hub = hub

    async def history(self, request: Request) -> Response:
        history = await self._sessions.reads.history(request.path_params["session_id"], credential_of(request))
        return json_response(encode(history))

    async def file(self, request: Request) -> Response:
        """A photo or a result by its signed link. Tampered, expired or erased: 404."""
        query = request.query_params
        key = await self._sessions.reads.file(
            request.path_params["key"],
            expires=query.get("expires", ""),
            key_id=query.get("key", ""),
            signature=query.get("signature", ""),
        )
        try:
            opened = await self._services.files.open(key)
        except MissingFile:
            raise NotFound from None
        return _StoredFile(
            opened,
            key,
            headers={
                "Cache-Control": "private, no-store",
                "Content-Security-Policy": "default-src 'none'; sandbox",
                "Cross-Origin-Resource-Policy": "cross-origin",
            },
        )

    # -- how the service is ------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        names = ("database", "storage", "redis", "workers", "queue")
        checks = await asyncio.gather(
            _check(self._services.database.reading.check),
            _check(self._services.files.check),
            self._check_redis(),
            self._check_workers(),
            self._check_queue(),
        )
        picture = dict(zip(names, checks, strict=True))
        if any(picture[name].status != "ok" for name in ("database", "storage")):
            status = "down"
        else:
            status = "ok" if all(check.status == "ok" for check in checks) else "degraded"
        return json_response(encode(Health(status, picture)), 503 if status == "down" else 200)

    async def live(self, request: Request) -> Response:
        """Answers as long as the event loop turns; restarting helps against nothing
        else.
        """
        return json_response(encode(Health("ok", {})))

    async def ready(self, request: Request) -> Response:
        """Whether to send requests here.

        Redis away is no reason not to: uploads and pushes go on without it.
        """
        if self._hub.draining:
            return json_response(encode(Health("down", {"draining": Check("down")})), 503)
        database, storage = await asyncio.gather(
            _check(self._services.database.reading.check), _check(self._services.files.check)
        )
        redis = Check("ok" if self._hub.delivers else "degraded")
        down = "down" in (database.status, storage.status)
        status = "down" if down else redis.status
        checks = {"database": database, "storage": storage, "redis": redis}
        return json_response(encode(Health(status, checks)), 503 if down else 200)

    async def metrics(self, request: Request) -> Response:
        self._hub.meter.flush()
        return Response(metrics.render_metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _check_redis(self) -> Check:
        """Not whether it answers, but whether news that is published comes back."""
        delay = self._hub.probe.delay_seconds
        if delay is None or not self._hub.delivers:
            return Check("degraded", detail="News does not come back; clients are served from the database.")
        return Check("ok", seconds=round(delay, 6))

    async def _check_workers(self) -> Check:
        try:
            seen = await self._services.queue.workers()
        except QueueAway:
            return Check("degraded", detail="Redis cannot be asked.")
        return Check("ok" if seen else "degraded", count=seen, detail=None if seen else "No worker was seen lately.")

    async def _check_queue(self) -> Check:
        try:
            waiting = await self._services.queue.depth()
        except QueueAway:
            return Check("degraded", detail="Redis cannot be asked.")
        full = waiting >= self._services.config.queue_limit
        return Check("degraded" if full else "ok", count=waiting)


async def _check(call: Callable[[], Awaitable[Any]]) -> Check:
    begin = time.perf_counter()
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await call()
    except (TryOnError, TimeoutError) as error:
        return Check("down", detail=error.detail if isinstance(error, TryOnError) else "No answer in time.")
    return Check("ok", seconds=round(time.perf_counter() - begin, 6))
