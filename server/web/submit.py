"""``POST /api/tryon/sessions``: the photo comes in, the session goes out."""

from __future__ import annotations

import asyncio
import logging
from typing import BinaryIO

from starlette.requests import Request
from starlette.responses import Response

from .. import telemetry
from ..adapters.imaging import Imaging
from ..adapters.limits import Verdict
from ..adapters.queue import QueueAway
from ..domain.errors import RateLimited, TryOnError, Unavailable
from ..domain.session import view
from ..domain.tokens import SESSIONS, new_token, token_hash
from ..services import Services
from ..sessions import Photo
from .credentials import client_address, token_of
from .problems import problem
from .status import json_response, session_answer
from .uploads import read_upload

log = logging.getLogger("tryon.web")


class Submit:
    """Rate, queue, body, images, session: each refusal as early as it can be."""

    def __init__(self, services: Services, imaging: Imaging) -> None:
        self._services = services
        self._imaging = imaging

    async def endpoint(self, request: Request) -> Response:
        headers: dict[str, str] = {}
        try:
            verdict = await self._services.limiter.take(client_address(request, self._services.config))
            headers = _rate_headers(verdict)
            if verdict is not None and not verdict.allowed:
                raise RateLimited(retry_after=verdict.reset_seconds)
            return await self._accept(request, headers)
        except TryOnError as error:
            telemetry.uploads_refused.labels(error.code).inc()
            return problem(error, headers)

    async def _accept(self, request: Request, headers: dict[str, str]) -> Response:
        token = token_of(request)
        made = None if token is not None else new_token()
        await self._check_queue()
        with await read_upload(request, self._services.config) as upload:
            image, garment = await asyncio.gather(self._clean(upload.image), self._clean(upload.garment))
            assert image is not None
            session = await self._services.sessions.submit(
                owner=token_hash(token or made or ""),
                image=image,
                garment=garment,
                params=upload.params,
                request_id=telemetry.request_id.get(),
            )
        body = session_answer(view(session, self._services.sessions.access()), client_token=made)
        return json_response(body, 201, headers | {"Location": f"{SESSIONS}/{session.id}"})

    async def _clean(self, source: BinaryIO | None) -> Photo | None:
        if source is None:
            return None
        clean = await self._imaging.clean(source)
        return Photo(clean.data, clean.extension)

    async def _check_queue(self) -> None:
        """Before the body is read: a full queue takes no more. With Redis away nobody knows, and the row is safe."""
        try:
            waiting = await self._services.queue.depth()
        except QueueAway:
            return
        if waiting >= self._services.config.queue_limit:
            raise Unavailable("queue_full", retry_after=10)


def _rate_headers(verdict: Verdict | None) -> dict[str, str]:
    """RateLimit fields (draft-ietf-httpapi-ratelimit-headers-10): what is left, until when, and the policy."""
    if verdict is None:
        return {}
    rate = verdict.rate
    return {
        "RateLimit": f'"uploads";r={verdict.remaining};t={verdict.reset_seconds}',
        "RateLimit-Policy": f'"uploads";q={rate.limit};w={rate.seconds}',
    }
