"""The demo page, the documentation's page, and the static files of both."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from server.config.settings import ConfigError
from server.web.common.ranges import RangedFileResponse
from tryon.protocol.errors import NotFound

PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of every page: scripts and styles of this server only."""


def static_directory() -> Path:
    """Return the folder of the static files.

    In a checkout it stands beside the packages, in an installed wheel inside the
    package. Raises ConfigError if it is in neither place.
    """
    package = Path(__file__).resolve().parents[2]
    for folder in (package.parent / "static", package / "static"):
        if (folder / "index.html").is_file():
            return folder
    raise ConfigError("the static files are missing from this installation")


class PageEndpoints:
    """The endpoints of everything that a browser shows as a page."""

    async def page(self, request: Request) -> Response:
        """Answer with the demo page."""
        return await _static("index.html")

    async def docs(self, request: Request) -> Response:
        """Answer with the page of the API's documentation."""
        return await _static("docs/index.html")

    async def static(self, request: Request) -> Response:
        """Answer with a static file of the two pages.

        Raises NotFound for any name that is not a file below the static folder.
        """
        return await _static(request.path_params["path"])


async def _static(name: str) -> Response:
    root = static_directory()
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise NotFound
        status = await asyncio.to_thread(path.stat)
    except (ValueError, OSError):  # a NUL in the name, or a name too long for the file system
        raise NotFound from None
    if not stat.S_ISREG(status.st_mode):
        raise NotFound
    return RangedFileResponse(
        path,
        stat_result=status,
        headers={"Cache-Control": "no-cache", "Content-Security-Policy": PAGE_POLICY, "Referrer-Policy": "no-referrer"},
    )
