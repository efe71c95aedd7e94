"""Connections with any header fields, as an application sees them."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any, Final

from starlette.requests import HTTPConnection

PROXIES: Final = (ip_network("10.0.0.0/8"), ip_network("::1/128"))


def connection(
    headers: dict[str, str] | list[tuple[str, str]] | None = None, *, peer: str | None = "10.0.0.1", query: str = ""
) -> HTTPConnection:
    """Return a connection with these header fields."""
    pairs = headers.items() if isinstance(headers, dict) else headers or []
    scope: dict[str, Any] = {
        "type": "http",
        "scheme": "http",
        "path": "/",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in pairs],
        "client": None if peer is None else (peer, 1234),
        "server": ("127.0.0.1", 8000),
    }
    return HTTPConnection(scope)
