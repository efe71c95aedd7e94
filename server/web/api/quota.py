"""``GET /api/tryon/quota``: a caller's plan, and what is left of it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from server.services import Services
from server.web.common.answers import json_response
from server.web.common.credentials import client_address, counted, identity_of
from tryon.protocol.frames import encode


class QuotaEndpoint:
    """The endpoint that answers with the caller's quota."""

    def __init__(self, services: Services) -> None:
        self._config = services.config
        self._quotas = services.sessions.quotas

    async def quota(self, request: Request) -> Response:
        """Answer with the plan and its use."""
        address = counted(client_address(request, self._config))
        return json_response(encode(await self._quotas.view(identity_of(request), address)))
