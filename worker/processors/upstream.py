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

Statuses and failures become a :class:`~tryon.processor.ProcessorError` in
:func:`failure_of`, and there alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import functools
import ipaddress
import json
import logging
import math
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import httpx

from tryon.processor import ProcessorError
from worker.processors.hosts import PORTS, Address, Hosts, Origin, Refused, host_of

CONNECT_SECONDS: Final = 5.0
"""Time for a name, and for a connection to one address."""
CALL_SECONDS: Final = 30.0
"""Time for a whole call, unless its caller says otherwise."""
IDLE_SECONDS: Final = 30.0
"""Longest silence in a stream of events."""
BUSY_SECONDS: Final = 5.0
"""Wait for a busy upstream that does not say how long it will be."""
MAX_WAIT_SECONDS: Final = 3600.0
"""Longest wait that is taken from an upstream's word."""
MAX_JSON_BYTES: Final = 2**20
MAX_FILE_BYTES: Final = 64 * 2**20
"""The limit of the interface for one output."""
MAX_EVENT_BYTES: Final = 32 * 2**20
"""One event; a picture may travel in it as a data URL."""
MAX_REDIRECTS: Final = 3
_MAX_ADDRESSES: Final = 4

_AUTH: Final = frozenset((401, 403))
_QUOTA: Final = 402
_BUSY: Final = frozenset((409, 429, 503))
_TRANSIENT: Final = frozenset((408, 425))

_log = logging.getLogger("tryon.upstream")
for _name in ("httpx", "httpcore"):  # they log URLs, in which an upstream may have put a signature
    logging.getLogger(_name).setLevel(logging.WARNING)

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a name."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses that the system knows for a name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


# -- answers ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of an upstream."""

    status: int
    headers: Mapping[str, str]
    """Their names are found in any case."""
    body: bytes = field(repr=False)

    @property
    def ok(self) -> bool:
        """Return whether the status says success."""
        return 200 <= self.status < 300

    def checked(self) -> Answer:
        """Return this answer. Raises ProcessorError unless it is a success."""
        if not self.ok:
            _log.warning("The upstream answered %d", self.status)
            raise failure_of(self.status, self.headers)
        return self

    def json(self) -> Any:
        """Return the body's JSON value. Raises ProcessorError: it is none."""
        try:
            return json.loads(self.body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise _malformed("an answer that is no JSON") from None


class Rejected(ProcessorError):
    """An answer that is no success; ``status`` is the upstream's."""

    def __init__(
        self,
        status: int,
        code: str,
        *,
        retryable: bool | None = None,
        requeue: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, retryable=retryable, requeue=requeue, retry_after=retry_after)
        self.status = status


def failure_of(status: int, headers: Mapping[str, str]) -> Rejected:
    """Return the error that a status stands for."""
    if status in _AUTH:
        return Rejected(status, "backend_auth", retryable=False)
    if status == _QUOTA:
        return Rejected(status, "quota_exceeded", retryable=False)
    if status in _BUSY:
        seconds = retry_after(headers)
        return Rejected(status, "backend_busy", retry_after=BUSY_SECONDS if seconds is None else seconds)
    if status >= 500 or status in _TRANSIENT:
        return Rejected(status, "backend_unreachable", requeue=True)
    return Rejected(status, "processor_error")


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Return the seconds of a ``Retry-After`` (RFC 9110, section 10.2.3).

    From 1 to :data:`MAX_WAIT_SECONDS`; None: there is none, or a malformed one. ``now``
    is in Unix seconds.
    """
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now)
        except (ValueError, TypeError, OverflowError):
            return None
    return min(MAX_WAIT_SECONDS, max(1.0, seconds)) if math.isfinite(seconds) else None


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
            raise _malformed("a URL that is none") from None

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
                        raise _malformed("a redirect to a malformed URL") from None
                    request = self._request("GET", str(target), None, seconds)
        raise _malformed("too many redirects")

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
                raise _malformed("an answer that is no stream of events")
            yield _events(response, host_of(request.url), max_event_bytes)
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
                    raise _malformed(f"an answer of more than {max_bytes} bytes")
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
        raise _malformed("a compressed answer")
    async for piece in response.aiter_raw():
        yield piece


@functools.cache
def _trust(ca_file: str | None) -> ssl.SSLContext:
    """Return the certificate authorities; reading them takes 20 ms."""
    return ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context(trust_env=False)


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


def _malformed(what: str) -> ProcessorError:
    _log.warning("The upstream sent %s", what)
    return ProcessorError("processor_error")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


# -- Server-Sent Events ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream."""

    name: str
    """``message`` where the server gave none."""
    data: str = field(repr=False)
    id: str = ""

    def json(self) -> Any:
        """Return the data's JSON value. Raises ProcessorError: it is none."""
        return Answer(200, {}, self.data.encode()).json()


async def _events(response: httpx.Response, host: str, max_event_bytes: int) -> AsyncIterator[Event]:
    """Yield the events (WHATWG HTML, section 9.2.6); ``retry`` is ignored."""
    data: list[str] = []
    name, identity, size = "", "", 0
    with _failures(host):
        async for line in _lines(response, max_event_bytes):
            size += len(line)
            if size > max_event_bytes:
                raise _malformed(f"an event of more than {max_event_bytes} bytes")
            if not line:
                if data:
                    yield Event(name or "message", "\n".join(data), identity)
                name, size = "", 0
                data.clear()
                continue
            key, _, value = line.decode(errors="replace").partition(":")
            value = value.removeprefix(" ")
            if key == "data":
                data.append(value)
            elif key == "event":
                name = value
            elif key == "id":
                identity = value


async def _lines(response: httpx.Response, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the lines, which end in CR, LF or both."""
    parts: list[bytes] = []
    size, first, after_cr = 0, True, False
    async for piece in _plain(response):
        if after_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        after_cr = piece.endswith(b"\r")
        if first:
            piece, first = piece.removeprefix(b"\xef\xbb\xbf"), False
        *whole, rest = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for end in whole:
            yield b"".join((*parts, end))
            parts, size = [], 0
        parts.append(rest)
        size += len(rest)
        if size > max_bytes:
            raise _malformed(f"a line of more than {max_bytes} bytes")
