"""CORS: pages and applications of other origins that may call, by the sockets' rule."""

from __future__ import annotations

from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from server.config.authorities import foreign_origin_allowed

EXPOSED_HEADERS: Final = (
    "Location", "ETag", "Retry-After", "RateLimit", "RateLimit-Policy", "X-Request-ID", "Idempotent-Replay",
)  # fmt: skip
ALLOWED_HEADERS: Final = (
    "Authorization", "X-Client-Token", "Idempotency-Key", "Last-Event-ID", "If-None-Match", "X-Request-ID", "Content-Type",
)  # fmt: skip


class OriginMiddleware(CORSMiddleware):
    """Starlette's CORS with origins that are parsed, as for a WebSocket.

    Starlette compares texts, and would need a regular expression for any port.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=list(ALLOWED_HEADERS),
            expose_headers=list(EXPOSED_HEADERS),
            max_age=3600,
        )
        self._origins = origins

    def is_allowed_origin(self, origin: str) -> bool:
        """Return whether pages of an origin may read answers."""
        return foreign_origin_allowed(origin, self._origins)
