"""Sends one POST over HTTP/1.1, and reads the status of its answer.

The host's name is resolved once, every address is judged, and the connection goes to
one that was judged: a name that means another address a moment later reaches nothing.
A redirect is an answer like any other, and is not followed. Of an answer only the
status is read, and the connection ends with it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from collections.abc import Mapping
from typing import Final

from server.adapters.webhooks.names import Names
from server.config.webhook_url import WebhookUrl
from server.domain.addresses import is_public

SEND_SECONDS: Final = 10.0
"""Time for one attempt, from the name's resolution to the status of the answer."""
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r\n]")
_MAX_LINE_BYTES: Final = 4096


class Undelivered(Exception):
    """A message that was not accepted; the text says why, and names no address."""


class WebhookSender:
    """Sends webhooks; for one event loop.

    ``private_allowed``: whether addresses that are not of the public internet may be
    connected to, and http without TLS be used.
    """

    def __init__(self, *, private_allowed: bool, seconds: float = SEND_SECONDS) -> None:
        self._private_allowed = private_allowed
        self._seconds = seconds
        self._names = Names()
        self._tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"<WebhookSender private_allowed={self._private_allowed}>"

    async def post(self, url: WebhookUrl, headers: Mapping[str, str], body: bytes) -> None:
        """Send a JSON body; return if the answer's status is 2xx.

        Raises :class:`Undelivered`.
        """
        if url.scheme == "http" and not self._private_allowed:
            raise Undelivered("http is not allowed")
        try:
            async with asyncio.timeout(self._seconds):
                status = await self._exchange(url, headers, body)
        except TimeoutError:
            raise Undelivered("no answer in time") from None
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:  # ssl.SSLError is an OSError
            raise Undelivered(f"the connection failed: {type(error).__name__}") from None
        if not 200 <= status < 300:
            raise Undelivered(f"answered {status}")

    async def _exchange(self, url: WebhookUrl, headers: Mapping[str, str], body: bytes) -> int:
        address = await self._resolve(url.host.strip("[]"))
        tls = self._context() if url.scheme == "https" else None
        reader, writer = await asyncio.open_connection(
            address, url.port, ssl=tls, server_hostname=url.host.strip("[]") if tls else None, limit=_MAX_LINE_BYTES
        )
        try:
            fields = {
                "Host": url.authority,
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                "User-Agent": "tryon-push",
                "Connection": "close",
                **headers,
            }
            head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            writer.write(f"POST {url.path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
            line = await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise Undelivered("the answer is not HTTP") from None
        finally:
            writer.transport.abort()
        match = _STATUS.match(line)
        if match is None:
            raise Undelivered("the answer is not HTTP")
        return int(match[1])

    async def _resolve(self, host: str) -> str:
        """Return an address of the host that may be connected to."""
        addresses = await self._names.addresses(host)
        allowed = [each for each in addresses if self._private_allowed or is_public(ipaddress.ip_address(each))]
        if not allowed:
            raise Undelivered("the address is private")
        return allowed[0]

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:  # 20 ms, and only processes that send need it
            self._tls = ssl.create_default_context()
        return self._tls
