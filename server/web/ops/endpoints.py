"""The endpoints of the operator's page; each lets an operator in first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from server.domain.operator import Done
from server.services import Services
from server.sessions.operating import Outcome
from server.web.api.static_files import PAGE_POLICY, StaticFiles
from server.web.api.submit import judge_again
from server.web.common.answers import json_response
from server.web.docs.openapi import document
from server.web.ops.access import OperatorAccess
from server.web.ops.board import Board
from server.web.ops.operations import OPERATIONS
from server.web.ops.viewers import ViewerResponse
from server.web.ops.watch import Watch
from server.web.push.hub import Hub
from server.web.transports.sse import HEADERS as STREAM_HEADERS
from tryon.protocol.errors import BadRequest, NotFound, RateLimited, TooLarge, TryOnError, Unauthorized
from tryon.protocol.frames import encode

log = logging.getLogger("tryon.operator")

MAX_FORM_BYTES: Final = 2048
"""Largest body of a sign-in."""

PRESENCE_PERIOD_SECONDS: Final = 3.0
"""Time between two notes of a web process about its connections."""

PAGE_HEADERS: Final = {
    "Content-Security-Policy": PAGE_POLICY.replace("img-src 'self' blob: data:; media-src 'self'", "img-src 'self'"),
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of the page; no picture of another place, of a blob or in the text."""

_ABOUT: Final = (
    "Served only where `TRYON_OPS_TOKEN` is set. Programs send one of its tokens as `Authorization: Bearer`; the page has a "
    "cookie. No answer names a client, a photo or a link."
)
_TAGS: Final = {
    "page": "For browsers.",
    "live": "What lives in the system.",
    "actions": "Each leaves a line for all to see.",
}

_PROBLEM: Final = "<!-- problem -->"


class OperatorEndpoints:
    """The page, its stream and the actions of operators."""

    def __init__(self, services: Services, hub: Hub, files: StaticFiles) -> None:
        self._config = services.config
        self._operating = services.sessions.operating
        self._processors = services.sessions.processors
        self._presence = services.presence
        self._clock = services.clock
        self._access = OperatorAccess(services.config, services.wrong_operators, services.clock)
        self._process = f"{socket.gethostname()}:{os.getpid()}:{services.randomness.bytes(2).hex()}"
        self._board = Board(services, hub, self._process)
        self._watch = Watch(self._board, services.database.feed, hub, services.clock)
        self._page = files.page("ops/index.html")
        self._login_page = files.page("ops/login.html")

    def __repr__(self) -> str:
        return f"<OperatorEndpoints {self._access!r} {self._watch!r}>"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Say to other processes what this one has open, until the block ends."""
        noting = asyncio.create_task(self._note(), name="web presence")
        try:
            yield
        finally:
            noting.cancel()
            await asyncio.wait({noting})
            await self._watch.stop()
            await self._presence.drop(self._process)

    async def _note(self) -> None:
        while True:
            try:
                await self._presence.note(self._process, self._board.presence(self._watch.viewers))
            except Exception:
                log.exception("This process could not say what it has open")
            await asyncio.sleep(PRESENCE_PERIOD_SECONDS)

    # -- the page ----------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """Answer with the page, or with the form to sign in (401)."""
        try:
            await self._access.operator_of(request)
        except (Unauthorized, RateLimited) as error:
            if "authorization" in request.headers:
                raise
            return self._form(error.status)
        return self._html(self._page.data, 200, self._page.headers)

    async def login(self, request: Request) -> Response:
        """Sign in with the token of the form; lead to the page."""
        self._access.check_site(request)
        try:
            operator = await self._access.sign_in(request, await _token_of(request))
        except (Unauthorized, RateLimited) as error:
            return self._form(error.status, error)
        log.info("Operator %s signed in", operator.name)
        headers = {"Set-Cookie": self._access.cookie(operator, request), "Cache-Control": "no-store"}
        return RedirectResponse("/ops", 303, headers=headers)

    async def logout(self, request: Request) -> Response:
        """Sign out: the cookie is removed."""
        self._access.check_site(request)
        headers = {"Set-Cookie": self._access.no_cookie(request), "Cache-Control": "no-store"}
        return RedirectResponse("/ops", 303, headers=headers)

    def _form(self, status: int, error: TryOnError | None = None) -> Response:
        said = f'<p class="problem" role="alert">{error.detail}</p>' if error is not None else ""
        body = self._login_page.data.replace(_PROBLEM.encode(), said.encode())
        answer = self._html(body, status, self._login_page.headers)
        if error is not None and error.retry_after is not None:
            answer.headers["Retry-After"] = str(int(error.retry_after))
        return answer

    def _html(self, body: bytes, status: int, own: dict[str, str]) -> Response:
        policy = PAGE_HEADERS["Content-Security-Policy"].replace("form-action 'none'", "form-action 'self'")
        scripts = own["Content-Security-Policy"].partition("script-src ")[2].partition(";")[0]
        policy = policy.replace("script-src 'self'", f"script-src {scripts}")
        headers = PAGE_HEADERS | {"Content-Security-Policy": policy}
        return Response(body, status, media_type="text/html", headers=headers)

    # -- reads -------------------------------------------------------------------------

    async def events(self, request: Request) -> Response:
        """Answer with the stream: an overview, then what changes."""
        operator = await self._access.operator_of(request)
        if request.method == "HEAD":
            return Response(headers=STREAM_HEADERS)
        seconds = self._config.socket_seconds
        if operator.until is not None:
            seconds = min(seconds, operator.until - self._clock.wall())
        viewer = await self._watch.join(operator.name)
        return ViewerResponse(viewer, seconds=seconds, left=lambda: self._watch.leave(viewer))

    async def overview(self, request: Request) -> Response:
        """Answer with everything that the page shows."""
        operator = await self._access.operator_of(request)
        return json_response(encode(await self._watch.overview(operator.name)))

    async def session(self, request: Request) -> Response:
        """Answer with any living session."""
        await self._access.operator_of(request)
        return json_response(encode(await self._board.session(request.path_params["session_id"])))

    async def openapi(self, request: Request) -> Response:
        """Answer with the OpenAPI document of these operations."""
        await self._access.operator_of(request)
        return json_response(encode(document(OPERATIONS, title="TryOn Push: operators", about=_ABOUT, tags=_TAGS)))

    # -- actions -----------------------------------------------------------------------

    async def redrive(self, request: Request) -> Response:
        """Get a session going again: 201 if a new one retries it, else 200."""
        operator = await self._access.operator_of(request)
        judge = judge_again(await self._processors.current(), self._config)
        with self._waking():
            done = await self._operating.redrive(request.path_params["session_id"], operator.name, judge=judge)
        return await self._done("redrive", request, done, status=201 if done.word == "retried" else 200)

    async def cancel(self, request: Request) -> Response:
        """Cancel a session: 202 if its worker was asked to stop, else 200."""
        operator = await self._access.operator_of(request)
        with self._waking():
            done = await self._operating.cancel(request.path_params["session_id"], operator.name)
        return await self._done("cancel", request, done, status=202 if done.word == "cancelling" else 200)

    async def erase(self, request: Request) -> Response:
        """Erase a session with all retries of its photo."""
        operator = await self._access.operator_of(request)
        with self._waking():
            done = await self._operating.erase(request.path_params["session_id"], operator.name)
        return await self._done("erase", request, done)

    @contextlib.contextmanager
    def _waking(self) -> Iterator[None]:
        """Have all pages of this process see the action, and that it was refused."""
        try:
            yield
        finally:
            self._watch.wake()

    async def _done(self, action: str, request: Request, outcome: Outcome, *, status: int = 200) -> Response:
        session_id = request.path_params["session_id"]
        session = None
        with contextlib.suppress(NotFound):
            session = await self._board.session(session_id)
        done = Done(action, outcome.word, session_id, session, outcome.new_session_id)
        return json_response(encode(done), status)


async def _token_of(request: Request) -> str:
    """Return the token of a form; raises TooLarge, BadRequest."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM_BYTES:
            raise TooLarge("body_too_large")
    try:
        return dict(parse_qsl(body.decode("ascii"), max_num_fields=4)).get("token", "").strip()
    except ValueError:
        raise BadRequest("bad_request", "The form is malformed.") from None
