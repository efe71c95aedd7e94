"""The generated documents as answers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from server.web.docs.asyncapi import asyncapi
from server.web.docs.openapi import openapi
from server.web.docs.schemas import JSON, Schema
from tryon.protocol.frames import encode


class GeneratedDocuments:
    """The endpoints of both documents."""

    async def openapi(self, request: Request) -> Response:
        return _answer(openapi())

    async def asyncapi(self, request: Request) -> Response:
        return _answer(asyncapi())


def _answer(document: Schema) -> Response:
    return Response(encode(document), media_type=JSON, headers={"Cache-Control": "no-cache"})
