"""The processor's own description, and the rules for uploads that follow from it."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from server.adapters.imaging.pool import ACCEPTED
from server.config.settings import Config
from server.domain.images import UPLOADED
from server.services import Services
from server.sessions.roles import Roles
from server.web.common.answers import json_response
from tryon.processor.interface import Role
from tryon.protocol.frames import encode
from tryon.protocol.processors import ProcessorView, RoleView


class ProcessorEndpoint:
    """The endpoint that answers with the processor."""

    def __init__(self, services: Services) -> None:
        self._config = services.config
        self._processors = services.sessions.processors

    async def processor(self, request: Request) -> Response:
        """Answer with what the running processor says of itself. Raises Unavailable."""
        current = await self._processors.current()
        return json_response(encode(here(current.view, self._config)))


def accepted_formats() -> list[str]:
    """Return the media types that this installation can decode."""
    return [name for name, kind in UPLOADED.items() if kind in ACCEPTED]


def here(view: ProcessorView, config: Config) -> ProcessorView:
    """Return the processor with this server's limits where it leaves them open."""
    return msgspec.structs.replace(view, roles=[_role_here(role, config) for role in view.roles])


def roles_of(view: ProcessorView, config: Config) -> Roles:
    """Return the roles that an upload is judged by on this server."""
    return Roles(
        tuple(
            Role(
                name=role.name,
                required=role.required,
                count=role.count,
                formats=tuple(role.formats),
                max_bytes=role.max_bytes,
                max_pixels=role.max_pixels,
                hint=role.hint,
            )
            for role in here(view, config).roles
        )
    )


def _role_here(role: RoleView, config: Config) -> RoleView:
    return msgspec.structs.replace(
        role,
        formats=[name for name in accepted_formats() if not role.formats or name in role.formats],
        max_bytes=min(role.max_bytes or config.image_max_bytes, config.image_max_bytes),
        max_pixels=min(role.max_pixels or config.image_max_pixels, config.image_max_pixels),
    )
