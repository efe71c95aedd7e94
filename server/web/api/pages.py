"""The demo page, the documentation's page, and the static files of both."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from server.web.api.static_files import StaticFiles
from server.web.common.resources import REVALIDATED


class PageEndpoints:
    """The endpoints of everything that a browser shows as a page."""

    def __init__(self, files: StaticFiles) -> None:
        self._files = files
        self._page = files.page("index.html")
        self._docs = files.page("docs/index.html")

    async def page(self, request: Request) -> Response:
        """Answer with the demo page."""
        return await self._page.answer(request, cache_control=REVALIDATED)

    async def docs(self, request: Request) -> Response:
        """Answer with the page of the API's documentation."""
        return await self._docs.answer(request, cache_control=REVALIDATED)

    async def static(self, request: Request) -> Response:
        """Answer with a static file of the two pages.

        Raises NotFound for any name that is not a file below the static folder.
        """
        resource, cache_control = self._files.find(request.path_params["path"])
        return await resource.answer(request, cache_control=cache_control)
