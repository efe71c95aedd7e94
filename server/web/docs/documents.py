"""The generated documents as answers."""

from __future__ import annotations

import functools
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from server.web.common.resources import REVALIDATED, Resource
from server.web.docs.asyncapi import asyncapi
from server.web.docs.openapi import openapi
from server.web.docs.schemas import JSON, Schema
from tryon.protocol.frames import encode


class GeneratedDocuments:
    """The endpoints of both documents."""

    async def openapi(self, request: Request) -> Response:
        return await _encoded(openapi).answer(request, cache_control=REVALIDATED)

    async def asyncapi(self, request: Request) -> Response:
        return await _encoded(asyncapi).answer(request, cache_control=REVALIDATED)


@functools.cache
def _encoded(document: Callable[[], Schema]) -> Resource:
    """Return a document as it is sent; made for the first reader."""
    return Resource(encode(document()), JSON)
