"""Calls to the servers that do a processor's work: one way for every processor.

- Only hosts of the operator's settings (:mod:`~worker.processors.hosts`), also after a
  redirect. A name is resolved and judged here, and the connection goes to the very
  address that was judged: an answer of the name server a moment later changes nothing.
- One connection for each call. None is shared between hosts, and no request fails
  because a server has closed an idle connection at that moment: a submission that may
  or may not have arrived would be paid for twice.
- Credentials go to the hosts that they belong to, and nowhere else.
- Bounds of time and size for everything that is read.
- Neither an error nor a log line holds a URL, a header or a body.

Statuses become a :class:`~tryon.processor.ProcessorError` in :func:`failure_of`,
failed connections in :func:`_failures`, and there alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import httpx

from server.domain.addresses import Address
from tryon.processor import ProcessorError
from worker.processors.answers import (
    BUSY_SECONDS,
    MAX_WAIT_SECONDS,
    Answer,
    Rejected,
    failure_of,
    malformed,
    retry_after,
    waited_for,
)
from worker.processors.events import Event, TooLong, events_of
from worker.processors.hosts import PORTS, Hosts, Origin, Refused, host_of

__all__ = [
    "BUSY_SECONDS",
    "MAX_WAIT_SECONDS",
    "Answer",
    "Event",
    "Rejected",
    "Upstream",
    "failure_of",
    "retry_after",
    "waited_for",
]

CONNECT_SECONDS: Final = 5.0
"""Time for a name, and for a connection to one address."""
CALL_SECONDS: Final = 30.0
"""Time for a whole call, unless its caller says otherwise."""
IDLE_SECONDS: Final = 30.0
"""Longest silence in a stream of events."""
MAX_JSON_BYTES: Final = 2**20
MAX_FILE_BYTES: Final = 64 * 2**20
"""The limit of the interface for one output."""
MAX_EVENT_BYTES: Final = 32 * 2**20
"""One event; a picture may travel in it as a data URL."""
MAX_REDIRECTS: Final = 3
_MAX_ADDRESSES: Final = 4

_log = logging.getLogger("tryon.upstream")
for _name in ("httpx", "httpcore"):  # they log URLs, in which an upstream may have put a signature
    logging.getLogger(_name).setLevel(logging.WARNING)

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a name."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses that the system knows for a name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


# -- calls -----------------------------------------------------------------------------


class Upstream:
    """The server at ``url``, and the further ``hosts`` that its answers may name.

    ``headers`` hold the credentials: they go to the host of ``url`` and to
    ``header_hosts``, which are among ``hosts``. ``private_hosts`` are names that may
    stand for private addresses. ``ca_file`` replaces the usual certificate authorities.

    Raises ValueError: one line that names what is malformed.
    """

    def __init__(
        self,
        url: str,
        *,
        hosts: Iterable[str] = (),
        private_hosts: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
        header_hosts: Iterable[str] = (),
        ca_file: str | None = None,
        resolve: Resolve = resolve,
    ) -> None:
        try:
            self._url = httpx.URL(url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ValueError("the URL of the upstream is malformed") from error
        if self._url.scheme not in PORTS or not self._url.host or self._url.userinfo:
            raise ValueError("the URL of the upstream is not like https://api.example.com/v1")
        own = Origin.of(self._url)
        allowed = Hosts.parse(hosts, private_hosts)
        self._hosts = Hosts((own, *allowed.allowed), allowed.private)
        self._headers = dict(headers or {})
        for name, text in self._headers.items():  # here, where its error is no session's and names no secret
            if not (isinstance(text, str) and text.isascii() and text.isprintable()):
                raise ValueError(f"the header {name} for the upstream is not of printable ASCII characters alone")
        self._header_hosts = (own, *(Origin.parse(each) for each in header_hosts))
        self._client = httpx.AsyncClient(
            transport=_Pinned(self._hosts, _trust(ca_file), resolve),
            trust_env=False,  # neither proxies nor a .netrc of the machine
            headers={"User-Agent": "tryon", "Accept-Encoding": "identity"},
        )

    def __repr__(self) -> str:
        return f"<Upstream {host_of(self._url)}>"

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    def address(self, path: str) -> httpx.URL:
        """Return the URL of a path below the upstream's own, or of a whole URL.

        Raises ProcessorError: it is malformed.
        """
        whole = path.startswith(("https://", "http://"))
        try:
            return httpx.URL(path if whole else f"{str(self._url).rstrip('/')}/{path.lstrip('/')}")
        except (httpx.InvalidURL, TypeError):
            raise malformed("a URL that is none") from None

    async def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: Mapping[str, str] | None = None,
        files: Sequence[tuple[str, tuple[str, bytes, str]]] | None = None,
        seconds: float = CALL_SECONDS,
        max_bytes: int = MAX_JSON_BYTES,
    ) -> Answer:
        """Return the answer, whatever its status.

        ``json`` is the body, or ``data`` and ``files`` (field, (name, content, type))
        are parts of a form. Raises ProcessorError: no answer within ``seconds``, one
        of more than ``max_bytes``, or a host that is not allowed.
        """
        request = self._request(method, path, headers, seconds, json=json, data=data, files=files)
        with _failures(host_of(request.url)):
            async with asyncio.timeout(seconds):
                return await self._answer(request, max_bytes)

    async def download(self, path: str, *, seconds: float = CALL_SECONDS, max_bytes: int = MAX_FILE_BYTES) -> Answer:
        """Return a file, after up to :data:`MAX_REDIRECTS` redirects to allowed hosts.

        Raises ProcessorError as :meth:`call`, and unless the status says success.
        """
        request = self._request("GET", path, None, seconds)
        with _failures(host_of(request.url)):
            async with asyncio.timeout(seconds):
                for _ in range(MAX_REDIRECTS + 1):
                    answer = await self._answer(request, max_bytes)
                    if answer.status not in (301, 302, 303, 307, 308) or "Location" not in answer.headers:
                        return answer.checked()
                    try:
                        target = request.url.join(answer.headers["Location"])
                    except httpx.InvalidURL:
                        raise malformed("a redirect to a malformed URL") from None
                    request = self._request("GET", str(target), None, seconds)
        raise malformed("too many redirects")

    @contextlib.asynccontextmanager
    async def events(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        idle_seconds: float = IDLE_SECONDS,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Open a stream of Server-Sent Events.

        It ends when the server ends it. Raises ProcessorError as :meth:`call`, unless
        the status says success, and in the stream: a silence of ``idle_seconds``, a
        lost connection, an event of more than ``max_event_bytes``.
        """
        accept = {"Accept": "text/event-stream", **(headers or {})}
        request = self._request(method, path, accept, idle_seconds, json=json)
        with _failures(host_of(request.url)):
            response = await self._client.send(request, stream=True)
        try:
            Answer(response.status_code, response.headers, b"").checked()
            if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "text/event-stream":
                raise malformed("an answer that is no stream of events")
            yield _read(response, host_of(request.url), max_event_bytes)
        finally:
            await response.aclose()

    def _request(
        self, method: str, path: str, headers: Mapping[str, str] | None, seconds: float, **body: Any
    ) -> httpx.Request:
        url = self.address(path)
        origin = Origin.of(url)
        secret = self._headers if any(each.covers(origin) for each in self._header_hosts) else {}
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        return self._client.build_request(method, url, headers={**secret, **(headers or {})}, timeout=timeout, **body)

    async def _answer(self, request: httpx.Request, max_bytes: int) -> Answer:
        response = await self._client.send(request, stream=True)
        try:
            pieces, size = [], 0
            async for piece in _plain(response):
                size += len(piece)
                if size > max_bytes:
                    raise malformed(f"an answer of more than {max_bytes} bytes")
                pieces.append(piece)
            return Answer(response.status_code, response.headers, b"".join(pieces))
        finally:
            await response.aclose()


class _Pinned(httpx.AsyncBaseTransport):
    """Connects to addresses that were judged, one connection for each request."""

    def __init__(self, hosts: Hosts, trust: ssl.SSLContext, resolve: Resolve) -> None:
        self._hosts = hosts
        self._resolve = resolve
        self._transport = httpx.AsyncHTTPTransport(
            verify=trust,
            trust_env=False,
            # A connection that was kept could serve another host of the same address.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    def __repr__(self) -> str:
        return f"<_Pinned {self._hosts}>"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it to the first of the host's addresses that accepts a connection."""
        self._hosts.check(request.url)
        host = host_of(request.url)
        failed: Exception = httpx.ConnectError("no address")
        for address in await self._addresses(host, Origin.of(request.url).port):
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=str(address)),
                headers=request.headers,  # with the Host of the URL
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},  # the certificate must be the name's
            )
            try:
                return await self._transport.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failed = error  # nothing of the request was sent
        raise failed

    async def _addresses(self, host: str, port: int) -> list[Address]:
        """Return the addresses that may be used. Raises Refused: there are none."""
        async with asyncio.timeout(CONNECT_SECONDS):
            found = await self._resolve(host.strip("[]"), port)
        refused: Refused | None = None
        usable = []
        for address in map(ipaddress.ip_address, found):
            try:
                self._hosts.check_address(host, address)
            except Refused as error:
                refused = error
            else:
                usable.append(address)
        if refused is not None and not usable:
            raise refused
        return usable[:_MAX_ADDRESSES]

    async def aclose(self) -> None:
        """Close what is open."""
        await self._transport.aclose()


async def _plain(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the body as it came; identity was asked for, so that it cannot grow."""
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise malformed("a compressed answer")
    async for piece in response.aiter_raw():
        yield piece


@functools.cache
def _trust(ca_file: str | None) -> ssl.SSLContext:
    """Return the certificate authorities; reading them takes 20 ms."""
    return ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context(trust_env=False)


async def _read(response: httpx.Response, host: str, max_event_bytes: int) -> AsyncIterator[Event]:
    with _failures(host):
        try:
            async for event in events_of(_plain(response), max_event_bytes):
                yield event
        except TooLong:
            raise malformed(f"an event of more than {max_event_bytes} bytes") from None


@contextlib.contextmanager
def _failures(host: str) -> Iterator[None]:
    """Map what goes wrong with a connection to ProcessorError, and log it."""
    try:
        yield
    except Refused as error:
        _log.warning("Refused: %s", error)
        raise ProcessorError("backend_unreachable", retryable=False) from None
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError, UnicodeError) as error:
        _log.warning("No answer from %s: %s", host, type(error).__name__)
        raise ProcessorError("backend_unreachable", requeue=True) from None
