"""``HttpNetwork``: the network port by httpx, with its proxies and certificates."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from urllib.parse import urlsplit

import httpx

from tryon.client.network import Answer, NoAnswer
from tryon.client.websocket import WebSocket, open_websocket


class HttpStream:
    """A :class:`~tryon.client.network.Stream` of httpx."""

    __slots__ = ("_pieces", "_response")

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._pieces = response.aiter_bytes()

    def __repr__(self) -> str:
        return f"<HttpStream {self.status}>"

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers; httpx looks names up in any case."""
        return self._response.headers

    async def piece(self) -> bytes | None:
        """Return the next piece of the body, None after the last. Raises NoAnswer."""
        try:
            return await anext(self._pieces, None)
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise NoAnswer(_cause(error)) from None


class HttpNetwork:
    """The way to the server at ``url`` (its origin, with a path prefix if it has one).

    ``trust_env``: honour HTTPS_PROXY, NO_PROXY and their like. ``ssl_context``: instead
    of the usual certificate authorities. Raises ValueError for a URL of another scheme.
    """

    def __init__(self, url: str, *, trust_env: bool = True, ssl_context: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an address like https://tryon.example")
        self.url = url.rstrip("/")
        self._trust_env = trust_env
        self._ssl = ssl_context if parts.scheme == "https" else None
        self._client = httpx.AsyncClient(
            verify=ssl_context if ssl_context is not None else True,
            trust_env=trust_env,
            timeout=None,  # noqa: S113  # every call below has its own
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=10),
            headers={"Accept": "application/json", "User-Agent": "tryon-client"},
        )

    def __repr__(self) -> str:
        return f"<HttpNetwork {self.url}>"

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", seconds: float
    ) -> Answer:
        """Return the whole answer, within ``seconds``. Raises NoAnswer."""
        try:
            async with asyncio.timeout(seconds):
                response = await self._client.request(
                    method, self.url + path, headers=dict(headers), content=body or None
                )
        except TimeoutError:
            raise NoAnswer("silent") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoAnswer(_cause(error)) from None
        return Answer(response.status_code, response.headers, response.content)

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, path: str, *, headers: Mapping[str, str], seconds: float
    ) -> AsyncIterator[HttpStream]:
        """Return a stream whose head arrives within ``seconds``. Raises NoAnswer."""
        try:
            url = path if path.startswith(("http://", "https://")) else self.url + path
            request = self._client.build_request(method, url, headers=dict(headers))
            async with asyncio.timeout(seconds):
                response = await self._client.send(request, stream=True)
        except TimeoutError:
            raise NoAnswer("silent") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoAnswer(_cause(error)) from None
        try:
            yield HttpStream(response)
        finally:
            with contextlib.suppress(httpx.HTTPError):  # a broken connection is closed all the same
                await response.aclose()

    @contextlib.asynccontextmanager
    async def socket(self, path: str, *, subprotocols: Sequence[str], seconds: float) -> AsyncIterator[WebSocket]:
        """Return a WebSocket whose handshake ends within ``seconds``.

        Raises NoAnswer.
        """
        socket = await open_websocket(
            self.url.replace("http", "ws", 1) + path,
            subprotocols=subprotocols,
            seconds=seconds,
            proxy=True if self._trust_env else None,
            **({} if self._ssl is None else {"ssl": self._ssl}),
        )
        try:
            yield socket
        finally:
            try:
                await socket.connection.close()
            finally:
                socket.connection.transport.abort()


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__
