"""The columns of the table of operations: a row, its answers, and its endpoint."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from server.adapters.identity.verifier import TokenVerifier
from server.web.api.files import FileEndpoints
from server.web.api.health import HealthEndpoints
from server.web.api.limits import LimitsEndpoint
from server.web.api.metrics_page import MetricsEndpoint
from server.web.api.pages import PageEndpoints
from server.web.api.processor import ProcessorEndpoint
from server.web.api.quota import QuotaEndpoint
from server.web.api.sessions import SessionEndpoints
from server.web.api.submit import SubmitEndpoints
from server.web.transports.long_poll import Polls
from server.web.transports.owners import OwnerSockets, OwnerStreams
from server.web.transports.sse import Streams
from server.web.transports.websocket import Sockets


class Documents(Protocol):
    """The endpoints of the generated documents, which are made from these rows."""

    async def openapi(self, request: Request) -> Response: ...
    async def asyncapi(self, request: Request) -> Response: ...


class OperatorPages(Protocol):
    """The endpoints of the operator's page, which stand above the API."""

    async def page(self, request: Request) -> Response: ...
    async def login(self, request: Request) -> Response: ...
    async def logout(self, request: Request) -> Response: ...
    async def events(self, request: Request) -> Response: ...
    async def overview(self, request: Request) -> Response: ...
    async def session(self, request: Request) -> Response: ...
    async def redrive(self, request: Request) -> Response: ...
    async def cancel(self, request: Request) -> Response: ...
    async def erase(self, request: Request) -> Response: ...
    async def openapi(self, request: Request) -> Response: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The parts of a running web process that answer requests.

    ``ops``: None where there are no operators.
    """

    verifier: TokenVerifier
    submit: SubmitEndpoints
    sessions: SessionEndpoints
    files: FileEndpoints
    processor: ProcessorEndpoint
    limits: LimitsEndpoint
    quota: QuotaEndpoint
    health: HealthEndpoints
    metrics: MetricsEndpoint
    polls: Polls
    streams: Streams
    sockets: Sockets
    owner_streams: OwnerStreams
    owner_sockets: OwnerSockets
    pages: PageEndpoints
    documents: Documents
    ops: OperatorPages | None = None

    @property
    def operator(self) -> OperatorPages:
        """Return the endpoints of the operator's page, whose routes exist with it."""
        assert self.ops is not None, "its routes need TRYON_OPS_TOKEN"
        return self.ops


@dataclass(frozen=True, slots=True)
class Http:
    """The endpoint that answers a request, picked from the running parts."""

    pick: Callable[[Endpoints], Callable[[Request], Awaitable[Response]]]


@dataclass(frozen=True, slots=True)
class Socket:
    """The endpoint that follows over a WebSocket, picked from the running parts."""

    pick: Callable[[Endpoints], Callable[[WebSocket], Awaitable[None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer that is not an error.

    ``body``: the struct that is sent as JSON. ``media``: the content type of any other
    body. With neither the answer has no body.
    """

    text: str
    body: type[msgspec.Struct] | None = None
    media: str | None = None
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One row of the API.

    ``errors``: the error codes it may answer with, from which the statuses follow.
    ``parameters``, ``form``, ``security`` and headers: names of ``docs.schemas``; the
    empty name in ``security`` means that no credential is fine, too.
    """

    method: str
    path: str
    name: str
    handler: Http | Socket
    tag: str
    summary: str
    text: str = ""
    parameters: tuple[str, ...] = ()
    form: str | None = None
    security: tuple[str, ...] = ()
    answers: dict[int, Answer]
    errors: tuple[str, ...] = ()
    error_headers: tuple[str, ...] = ()
    documented: bool = True

    @property
    def identifies(self) -> bool:
        """Return whether a request may show a token."""
        return "bearer" in self.security

    @property
    def route(self) -> str:
        """Return the path as Starlette matches it; keys and file names hold slashes."""
        return re.sub(r"{(key|path)}", r"{\1:path}", self.path)
