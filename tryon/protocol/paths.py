"""Paths of the HTTP API.

Parameters stand in braces; of a file's key, slashes are part of it.
"""

from __future__ import annotations

from typing import Final

API: Final = "/api/tryon"
SESSIONS: Final = f"{API}/sessions"
SESSION: Final = f"{SESSIONS}/{{session_id}}"
SOCKET: Final = f"{SESSION}/ws"
EVENTS: Final = f"{SESSION}/events"
HISTORY: Final = f"{SESSION}/history"
CANCEL: Final = f"{SESSION}/cancel"
RETRY: Final = f"{SESSION}/retry"
FILES: Final = f"{API}/files"
FILE: Final = f"{FILES}/{{key}}"
RECEIPT_KEY: Final = f"{API}/receipt-key"

HEALTH: Final = "/api/health"
LIVE: Final = f"{HEALTH}/live"
READY: Final = f"{HEALTH}/ready"
METRICS: Final = "/metrics"

DOCS: Final = "/api/docs"
OPENAPI: Final = "/api/openapi.json"
ASYNCAPI: Final = "/api/asyncapi.json"
PAGE: Final = "/"
STATIC: Final = "/static/{path}"
