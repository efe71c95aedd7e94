"""The endpoints that create a session: from an upload, or as a retry of another one."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from server.adapters.database.errors import Taken
from server.adapters.imaging.pool import Imaging
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.limits import Verdict
from server.config.settings import Config
from server.config.webhook_url import parse_webhook_url
from server.domain.identities import Identity
from server.domain.images import judge_pixels
from server.domain.quotas import Quota
from server.domain.session import Session
from server.domain.stored_files import NewFile
from server.domain.tokens import new_token, token_hash
from server.services import Services
from server.sessions.processors import CurrentProcessor
from server.sessions.roles import Roles
from server.sessions.submissions import Idempotency
from server.telemetry import logs, metrics
from server.web.api.form import WEBHOOK
from server.web.api.in_flight import IN_FLIGHT_SECONDS, KeysInFlight
from server.web.api.params import resolve, resolve_again
from server.web.api.processor import roles_of
from server.web.api.upload_slots import UploadSlot, UploadSlots
from server.web.api.uploads import Upload, UploadedImage, read_upload
from server.web.common.answers import json_response, session_answer
from server.web.common.credentials import client_address, counted, identity_of
from server.web.common.problems import problem
from tryon.processor.params import ParamsSchema
from tryon.protocol.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    RateLimited,
    TooLarge,
    TryOnError,
    Unauthorized,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)
from tryon.protocol.paths import SESSIONS
from tryon.protocol.views import Params

IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
"""An Idempotency-Key: 1 to 255 visible ASCII characters."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """An upload that was read, and the rules of the processor that judge it."""

    owner: str
    address: str
    quota: Quota | None
    upload: Upload
    roles: Roles
    schema: ParamsSchema


class SubmitEndpoints:
    """The endpoints that create sessions.

    Rate limit, queue limit, body, images, session: each refusal comes as early as it
    can.
    """

    def __init__(self, services: Services, imaging: Imaging) -> None:
        self._processors = services.sessions.processors
        self._config = services.config
        self._clock = services.clock
        self._storage_threads = services.storage_threads
        self._limiter = services.limiter
        self._queue = services.queue
        self._database = services.database.reader
        self._reads = services.sessions.reads
        self._submissions = services.sessions.submissions
        self._quotas = services.sessions.quotas
        self._imaging = imaging
        self._slots = UploadSlots(services.config)
        self._in_flight = KeysInFlight()

    async def upload(self, request: Request) -> Response:
        """Create a session from a photo."""
        return await self._limited(request, self._upload)

    async def retry(self, request: Request) -> Response:
        """Create a session from the photos of a failed or cancelled one.

        Counts as an upload.
        """
        return await self._limited(request, self._retry)

    async def _limited(
        self, request: Request, accept: Callable[[Request, UploadSlot, dict[str, str]], Awaitable[Response]]
    ) -> Response:
        """Count the request against the address's limits, then answer with ``accept``.

        A request beyond the rate adds nothing to it. All others count, refused ones
        too: photos, replays, and what another limit or a plan refuses.
        """
        headers: dict[str, str] = {}
        address = counted(client_address(request, self._config))
        try:
            with self._slots.taken(address) as slot:
                verdict = await self._limiter.take(address)
                headers = _rate_headers(verdict)
                if verdict is not None and not verdict.allowed:
                    raise RateLimited(limit="upload_rate", retry_after=verdict.reset_seconds)
                return await accept(request, slot, headers)
        except TryOnError as error:
            metrics.uploads_refused.labels(error.code).inc()
            return problem(error, headers)

    async def _upload(self, request: Request, slot: UploadSlot, headers: dict[str, str]) -> Response:
        identity = self._uploader(request)
        key = _idempotency_key(request)
        if key is not None and identity is None:
            raise Unprocessable("idempotency_needs_token")
        made = None if identity is not None else new_token()
        owner = identity.owner if identity is not None else token_hash(made or "")
        quota = self._quotas.of(identity, slot.address)
        await self._check_quota(quota, owner, key)
        await self._check_queue()
        judge = await self._processors.current()
        roles = roles_of(judge.view, self._config)
        upload = await read_upload(
            request,
            self._config,
            self._clock,
            self._storage_threads,
            slot,
            roles=roles,
            fingerprint=key is not None,
        )
        with contextlib.closing(upload):
            wish = _Wish(owner, slot.address, quota, upload, roles, judge.params)
            if key is None:
                session, replayed = await self._submit(wish, None), False
            else:
                session, replayed = await self._submit_once(wish, Idempotency.of(key, upload.fingerprint))
        return await self._created(session, headers, replayed=replayed, made=made)

    async def _check_quota(self, quota: Quota | None, owner: str, key: str | None) -> None:
        """Refuse an upload that the plan does not grant, before the body is read.

        A replay is answered whatever the plan grants: ``key`` is looked up after the
        refusal, so it is found if its first request has taken the last upload. Raises
        RateLimited, Forbidden.
        """
        try:
            await self._quotas.check(quota)
        except (RateLimited, Forbidden):
            if key is None or not await self._submissions.was_used(owner, key):
                raise

    def _uploader(self, request: Request) -> Identity | None:
        """Return the identity of a client that may upload; None for a new one.

        Raises Unauthorized if only users may.
        """
        identity = identity_of(request)
        if not self._config.anonymous and (identity is None or identity.anonymous):
            raise Unauthorized("token_required", "Only users who are signed in may upload here.")
        return identity

    async def _created(
        self, session: Session, headers: dict[str, str], *, replayed: bool, made: str | None = None
    ) -> Response:
        """Answer 201 with the session as it is now, and mark a replay as such."""
        metrics.uploads.labels("replayed" if replayed else "created").inc()
        now = await self._reads.view_of(session)
        more = {"Location": f"{SESSIONS}/{session.id}"} | ({"Idempotent-Replay": "true"} if replayed else {})
        return json_response(session_answer(now, client_token=made), 201, headers | more)

    async def _submit(self, wish: _Wish, idempotency: Idempotency | None) -> Session:
        resolved = resolve(wish.upload.params, wish.schema)
        webhook = self._webhook(wish.upload.webhook)
        original, copies = None, list[NewFile]()
        if wish.upload.original:
            sent = {image.role for image in wish.upload.images}
            original, copies = await self._submissions.inputs_of(
                wish.upload.original, wish.owner, judge=lambda found: wish.roles.copied(found.inputs, sent=sent)
            )
        cleaned = await self._cleaned(wish)
        submitted = self._submissions.submit(
            owner=wish.owner,
            inputs=wish.roles.in_order([*cleaned, *copies]),
            params=resolved.params,
            seed=resolved.seed,
            seed_chosen=resolved.seed_chosen,
            request_id=logs.request_id.get(),
            address=wish.address,
            original=original,
            webhook=webhook,
            idempotency=idempotency,
            quota=wish.quota,
        )
        return await self._quotas.noting(wish.quota, submitted)

    def _webhook(self, text: str) -> str | None:
        """Return an upload's own webhook; None without one.

        Raises Unprocessable if the settings do not allow it.
        """
        if not text:
            return None
        try:
            url = parse_webhook_url(text)
        except ValueError as error:
            raise Unprocessable("bad_webhook", f"webhook {error}.", part=WEBHOOK) from None
        if not url.allowed_by(self._config.webhook_hosts):
            raise Unprocessable("bad_webhook", part=WEBHOOK)
        if url.scheme == "http" and not self._config.webhook_private:
            raise Unprocessable("bad_webhook", "webhook must begin with https.", part=WEBHOOK)
        return str(url)

    async def _submit_once(self, wish: _Wish, idempotency: Idempotency) -> tuple[Session, bool]:
        """Return the session of this key, and whether it existed before.

        Equal requests in this process wait for each other, so the photo is cleaned only
        once; between processes the database's unique key decides. Raises Unprocessable
        if the key was used with other content, Conflict if the first request takes too
        long.
        """
        async with self._in_flight.serialized(wish.owner, idempotency.key_hash):
            if (session := await self._submissions.replay(wish.owner, idempotency)) is not None:
                return session, True
            try:
                await self._quotas.check(wish.quota)
                return await self._submit(wish, idempotency), False
            except (Taken, RateLimited) as refused:  # perhaps by what the same request took in another process
                session = await self._submissions.replay(wish.owner, idempotency)
                if session is not None:
                    return session, True
                if isinstance(refused, RateLimited):
                    raise
                # Its session has expired and is not erased yet.
                raise Conflict("idempotency_in_flight", retry_after=IN_FLIGHT_SECONDS) from None

    async def _retry(self, request: Request, slot: UploadSlot, headers: dict[str, str]) -> Response:
        identity = self._uploader(request)
        owner = None if identity is None else identity.owner
        await self._check_queue()
        again = judge_again(await self._processors.current(), self._config)
        quota = self._quotas.of(identity, slot.address)

        def judge(original: Session, chosen: int | None) -> tuple[Params, int | None]:
            self._quotas.judge_processor(quota)  # not for a retry that was answered before
            return again(original, chosen)

        retried = self._submissions.retry(
            request.path_params["session_id"],
            owner,
            request_id=logs.request_id.get(),
            address=slot.address,
            judge=judge,
            quota=quota,
        )
        session, replayed = await self._quotas.noting(quota, retried)
        return await self._created(session, headers, replayed=replayed)

    async def _cleaned(self, wish: _Wish) -> list[NewFile]:
        """Clean all images at once; the first that is refused gives up the others."""
        cleaning = [asyncio.create_task(self._clean(image, wish), name="photo") for image in wish.upload.images]
        try:
            return await asyncio.gather(*cleaning)
        finally:
            for each in cleaning:
                each.cancel()
            await asyncio.gather(*cleaning, return_exceptions=True)

    async def _clean(self, image: UploadedImage, wish: _Wish) -> NewFile:
        role = wish.roles.of_part(image.role)
        try:
            clean = await self._imaging.clean(image.content, address=wish.address)
            if role is not None and role.max_pixels is not None:
                judge_pixels(clean.width, clean.height, role.max_pixels)
        except (TooLarge, Unprocessable, UnsupportedMedia) as error:
            error.part = image.part
            raise
        return NewFile(clean.data, clean.format.media_type, clean.width, clean.height, image.role)

    async def _check_queue(self) -> None:
        """Raise Unavailable if the queue is full, before the body is read.

        Redis is asked first because it is quick; but a session may have several jobs
        there, and Redis may be unavailable: the database has the last word.
        """
        limit = self._config.queue_limit
        if self._queue.surely_below(limit):
            return
        try:
            if await self._queue.depth() < limit:
                return
        except QueueUnavailable:
            pass
        if await self._database.count_waiting() >= limit:
            raise Unavailable("queue_full", retry_after=10)


def judge_again(
    current: CurrentProcessor, config: Config
) -> Callable[[Session, int | None], tuple[Params, int | None]]:
    """Return the judge of sessions that this processor is to try again.

    It returns the params and the seed of the new one, and raises Unprocessable if the
    processor does not take the old one any more.
    """
    roles = roles_of(current.view, config)

    def judge(original: Session, chosen: int | None) -> tuple[Params, int | None]:
        roles.copied(original.inputs)
        resolved = resolve_again(original.params, chosen, current.params)
        return resolved.params, resolved.seed

    return judge


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise BadRequest("bad_idempotency_key")
    return key


def _rate_headers(verdict: Verdict | None) -> dict[str, str]:
    """Return the RateLimit fields (draft-ietf-httpapi-ratelimit-headers-10)."""
    if verdict is None:
        return {}
    rate = verdict.rate
    return {
        "RateLimit": f'"uploads";r={verdict.remaining};t={verdict.reset_seconds}',
        "RateLimit-Policy": f'"uploads";q={rate.limit};w={rate.seconds}',
    }
