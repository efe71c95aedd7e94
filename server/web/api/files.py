"""Stored photos and results, read through their signed links."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.adapters.files.port import LinkMethod, MissingFile, OpenFile
from server.domain.stored_files import Direction
from server.services import Services
from server.web.common.fields import query
from server.web.common.ranges import RangedFileResponse
from tryon.protocol.errors import NotFound

HEADERS: Final = {
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
"""Headers of every stored file: nothing in it may run, and no cache may keep it."""

REDIRECT_HEADERS: Final = {
    "Cache-Control": "private, no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
"""Headers of an answer that leads to the bucket."""


class StoredFileResponse(RangedFileResponse):
    """The answer with a stored file, ``Range`` included.

    The file is open before the answer begins: a file erased before is a 404, a file
    erased during the download is still sent to its end.
    """

    def __init__(self, file: OpenFile, name: str, media_type: str) -> None:
        status = os.stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, file.size, 0, file.modified_at, 0))
        super().__init__(name, media_type=media_type, headers=HEADERS, stat_result=status)
        self._file = file

    @contextlib.asynccontextmanager
    async def _open_file(self) -> AsyncIterator[Any]:
        # Starlette opens a path here; the storage has opened its file already. The hook
        # is private: it came with 1.10, hence the floor in pyproject.toml, and a test
        # fails when Starlette no longer calls it.
        yield self._file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, then close it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._file.aclose()


class FileEndpoints:
    """The endpoint that signed links lead to."""

    def __init__(self, services: Services) -> None:
        self._reads = services.sessions.reads
        self._files = services.files

    async def file(self, request: Request) -> Response:
        """Answer with a photo or a result, or lead to a result in the bucket.

        Raises NotFound for a link that was altered or has expired, and for an erased
        file.
        """
        parameters = query(request.scope)
        stored, seconds = await self._reads.file(
            request.path_params["key"],
            expires=parameters.get("expires", ""),
            key_id=parameters.get("key", ""),
            signature=parameters.get("signature", ""),
        )
        if stored.direction is not Direction.INPUT:
            method: LinkMethod = "HEAD" if request.method == "HEAD" else "GET"
            if link := await self._files.link(stored.key, method=method, seconds=seconds):
                return Response(status_code=302, headers=REDIRECT_HEADERS | {"Location": link})
        try:
            opened = await self._files.open(stored.key)
        except MissingFile:
            raise NotFound from None
        return StoredFileResponse(opened, stored.key, stored.type)
