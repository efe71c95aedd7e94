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

from server.web.api.files import FileEndpoints
from server.web.api.health import HealthEndpoints
from server.web.api.limits import LimitsEndpoint
from server.web.api.pages import PageEndpoints
from server.web.api.processor import ProcessorEndpoint
from server.web.api.sessions import SessionEndpoints
from server.web.api.submit import SubmitEndpoints
from server.web.transports.long_poll import Polls
from server.web.transports.sse import Streams
from server.web.transports.websocket import Sockets


class Documents(Protocol):
    """The endpoints of the generated documents, which are made from these rows."""

    async def openapi(self, request: Request) -> Response: ...
    async def asyncapi(self, request: Request) -> Response: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The parts of a running web process that answer requests."""

    submit: SubmitEndpoints
    sessions: SessionEndpoints
    files: FileEndpoints
    processor: ProcessorEndpoint
    limits: LimitsEndpoint
    health: HealthEndpoints
    polls: Polls
    streams: Streams
    sockets: Sockets
    pages: PageEndpoints
    documents: Documents


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
    def route(self) -> str:
        """Return the path as Starlette matches it; keys and file names hold slashes."""
        return re.sub(r"{(key|path)}", r"{\1:path}", self.path)
