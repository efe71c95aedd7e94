"""The port that a network implements: requests, streams, WebSockets.

:class:`~tryon.client.http.HttpNetwork` is the implementation for users. A load
generator that needs a source address for each client, or wants to break connections,
brings its own. One contract suite (``tests/tryon/client/network_contract.py``) runs
against every implementation.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec


class NoAnswer(Exception):
    """The connection was refused, broke, or stayed silent for too long.

    Every error of the libraries below arrives as this one; its text names the cause.
    """


class SocketRefused(NoAnswer):
    """The server answered a WebSocket handshake with an HTTP status other than 101."""

    def __init__(self, status: int, retry_after: float | None = None) -> None:
        self.status = status
        self.retry_after = retry_after
        super().__init__(f"refused with {status}")


class SocketClosed(NoAnswer):
    """A WebSocket has ended. ``code``: of the close frame, or 1006 without one."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"closed with {code}")


class _Problem(msgspec.Struct, frozen=True):
    code: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer. ``headers``: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON. Raises ValueError."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Return the code of a refusal (RFC 9457), empty where there is none."""
        try:
            return msgspec.json.decode(self.body, type=_Problem).code
        except msgspec.MsgspecError:
            return ""

    @property
    def retry_after(self) -> float | None:
        """Return ``Retry-After`` in seconds, None without a usable one."""
        return retry_after(self.headers)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return ``Retry-After`` in seconds; None if it is missing or a date."""
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None


async def whole_answer(stream: Stream, seconds: float) -> Answer:
    """Return the whole answer of a stream, each piece of it within ``seconds``.

    Raises NoAnswer.
    """
    pieces: list[bytes] = []
    try:
        while True:
            async with asyncio.timeout(seconds):
                piece = await stream.piece()
            if piece is None:
                return Answer(stream.status, stream.headers, b"".join(pieces))
            pieces.append(piece)
    except TimeoutError:
        raise NoAnswer("silent") from None


class Stream(Protocol):
    """An HTTP answer whose body is still arriving."""

    @property
    def status(self) -> int:
        """Return the HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers, names in lower case."""

    async def piece(self) -> bytes | None:
        """Return the next piece of the body, None after the last.

        Raises NoAnswer if the connection breaks.
        """


class Socket(Protocol):
    """An open WebSocket."""

    async def receive(self) -> str | bytes:
        """Return the next message. Raises SocketClosed."""

    async def send(self, message: str) -> None:
        """Send a text message; a closed socket drops it."""


class Network(Protocol):
    """The way to one server.

    Paths begin with a slash. Leaving a stream's or socket's block ends its connection.
    Implementations raise NoAnswer and its subclasses, never an error of a library; they
    neither retry nor follow redirects.
    """

    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", seconds: float
    ) -> Answer:
        """Return the whole answer, within ``seconds``."""

    def stream(
        self, method: str, path: str, *, headers: Mapping[str, str], seconds: float
    ) -> AbstractAsyncContextManager[Stream]:
        """Return a stream whose head arrives within ``seconds``.

        The body may take longer. ``path`` may be a whole URL: where a link leads.
        """

    def socket(self, path: str, *, subprotocols: Sequence[str], seconds: float) -> AbstractAsyncContextManager[Socket]:
        """Return a WebSocket whose handshake ends within ``seconds``."""
