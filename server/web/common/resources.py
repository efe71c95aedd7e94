"""A resource that is kept in memory: sent compressed, as it is, in parts, or not again.

Its ETag is a hash of its bytes, so that processes and machines agree. The compressed
form is a representation of its own, with an ETag of its own (RFC 9110 section 8.8.3.3);
a request for a range gets the other one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from server.web.common.etags import matches
from server.web.common.fields import fields, members
from server.web.common.ranges import RangedFileResponse
from tryon.protocol.numbers import decimal

REVALIDATED: Final = "no-cache"
"""Cache-Control of a name whose content may change: caches ask before each use."""

IMMUTABLE: Final = f"public, max-age={365 * 24 * 3600}, immutable"
"""Cache-Control of a name that holds the hash of its content."""

_COMPRESSIBLE: Final = ("text/", "application/json", "image/svg+xml")


class Resource:
    """The bytes of a resource, and the gzip of them once it is made.

    ``headers`` go with every answer.
    """

    __slots__ = ("_gzip", "data", "digest", "headers", "media_type")

    def __init__(self, data: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.media_type = media_type
        self.headers = dict(headers or {})
        self.digest = hashlib.sha256(data).hexdigest()[:16]
        """64 bits of the SHA-256, as hex digits."""
        self._gzip: bytes | None = None

    def __repr__(self) -> str:
        return f"<Resource {self.media_type} {len(self.data)} bytes {self.digest}>"

    @property
    def compressible(self) -> bool:
        """Return whether compression makes such content smaller."""
        return self.media_type.startswith(_COMPRESSIBLE)

    def compress(self) -> bytes:
        """Return the gzip of the content; made once."""
        if self._gzip is None:
            self._gzip = gzip.compress(self.data, mtime=0)
        return self._gzip

    async def compressed(self) -> bytes:
        """Return the gzip of the content; if it is not there, a thread makes it."""
        if self._gzip is not None:
            return self._gzip
        return await asyncio.to_thread(self.compress)

    async def answer(self, request: Request, *, cache_control: str, more: Mapping[str, str] | None = None) -> Response:
        """Return the answer to a GET or HEAD: 200, 206, 304 or 416.

        ``more``: headers of this answer, in place of the resource's own.
        """
        headers = {**self.headers, **(more or {}), "Cache-Control": cache_control}
        data, etag = self.data, f'"{self.digest}"'
        if self.compressible:
            headers["Vary"] = "Accept-Encoding"
            if not fields(request.scope, b"range") and takes_gzip(fields(request.scope, b"accept-encoding")):
                data, etag = await self.compressed(), f'"{self.digest}-gzip"'
                headers["Content-Encoding"] = "gzip"
        headers["ETag"] = etag
        if matches(fields(request.scope, b"if-none-match"), etag):
            headers.pop("Content-Encoding", None)
            return Response(status_code=304, headers=headers)
        return _BytesResponse(data, self.media_type, headers)


def takes_gzip(accept_encoding: list[str]) -> bool:
    """Return whether a client takes gzip (RFC 9110 section 12.5.3)."""
    weights = dict(_weighted(member) for member in members(accept_encoding))
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


def _weighted(member: str) -> tuple[str, float]:
    """Return a coding and its weight; a malformed weight counts as 0."""
    coding, _, parameters = member.partition(";")
    name, equals, text = parameters.partition("=")
    weight = 1.0
    if parameters.strip():
        weight = (decimal(text.strip()) or 0.0) if equals and name.strip().lower() == "q" else 0.0
    return coding.strip().lower(), weight


class _BytesResponse(RangedFileResponse):
    """Bytes in memory, ``Range`` included, in pieces that wait for a slow client."""

    def __init__(self, data: bytes, media_type: str, headers: Mapping[str, str]) -> None:
        status = os.stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, len(data), 0, 0, 0))
        super().__init__("", headers=headers, media_type=media_type, stat_result=status)
        del self.headers["last-modified"]  # the ETag says it better
        self._data = data

    @contextlib.asynccontextmanager
    async def _open_file(self) -> AsyncIterator[Any]:
        yield _Reader(self._data)  # as in StoredFileResponse


class _Reader:
    """A file of bytes in memory, as Starlette reads it."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    async def seek(self, at: int) -> None:
        self._at = at

    async def read(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece
