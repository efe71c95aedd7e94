"""Paths of the HTTP API.

Parameters stand in braces; the key of a file may hold slashes.
"""

from __future__ import annotations

from typing import Final

API: Final = "/api/tryon"
SESSIONS: Final = f"{API}/sessions"
WS: Final = "/ws"
"""Below a session's path: the WebSocket."""

SSE: Final = "/events"
"""Below a session's path: Server-Sent Events."""

OWNER_SOCKET: Final = API + WS
"""The WebSocket of all sessions of an owner."""

OWNER_EVENTS: Final = API + SSE
"""The same as Server-Sent Events."""

SESSION: Final = f"{SESSIONS}/{{session_id}}"
SOCKET: Final = SESSION + WS
EVENTS: Final = SESSION + SSE
HISTORY: Final = f"{SESSION}/history"
CANCEL: Final = f"{SESSION}/cancel"
RETRY: Final = f"{SESSION}/retry"
SHARE: Final = f"{SESSION}/share"
CRASH: Final = f"{SESSION}/crash"
FILES: Final = f"{API}/files"
FILE: Final = f"{FILES}/{{key}}"
PROCESSOR: Final = f"{API}/processor"
LIMITS: Final = f"{API}/limits"
QUOTA: Final = f"{API}/quota"
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
