"""The limits of this server, which clients read before they send a photo."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from server.config.settings import Config
from server.web.api.params import MAX_PARAMS_BYTES
from server.web.api.processor import accepted_formats
from server.web.common.answers import json_response
from tryon.protocol.frames import encode
from tryon.protocol.limits import LimitsView, UploadsView


class LimitsEndpoint:
    """The endpoint that answers with the limits; they change with a restart only."""

    def __init__(self, config: Config) -> None:
        self._body = encode(limits(config))

    async def limits(self, request: Request) -> Response:
        return json_response(self._body)


def limits(config: Config) -> LimitsView:
    """Return the limits of a server with these settings."""
    rate = config.upload_rate
    return LimitsView(
        formats=accepted_formats(),
        max_image_bytes=config.image_max_bytes,
        max_body_bytes=config.body_max_bytes,
        max_pixels=config.image_max_pixels,
        min_side=config.image_min_side,
        max_side=config.image_max_side,
        max_params_bytes=MAX_PARAMS_BYTES,
        uploads=None if rate is None else UploadsView(rate.limit, rate.seconds),
        retention_seconds=config.retention_seconds,
        deadline_seconds=config.deadline_seconds,
        link_seconds=config.link_seconds,
        max_attempts=config.max_attempts,
        demo=config.demo,
        anonymous=config.anonymous,
    )
