"""Where everything is: the paths of the HTTP API."""

from __future__ import annotations

from typing import Final

API: Final = "/api/tryon"
SESSIONS: Final = f"{API}/sessions"
FILES: Final = f"{API}/files"
