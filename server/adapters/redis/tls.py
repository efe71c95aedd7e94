"""TLS to Redis: the same rules for redis-py's connections and our own."""

from __future__ import annotations

import ssl
from typing import Any

from redis.asyncio.connection import SSLConnection, parse_url

from server.config.redis_url import RedisUrl


def tls_defaults(url: RedisUrl) -> dict[str, bool]:
    """Return options that hold unless the URL says otherwise.

    The name in the certificate is checked: redis-py 5 does not by default. A URL that
    accepts every certificate accepts every name.
    """
    return {"ssl_check_hostname": url.option("ssl_cert_reqs") != "none"} if url.encrypted else {}


def tls_context(url: RedisUrl) -> ssl.SSLContext | None:
    """Return the TLS context that redis-py would use for this URL; None without TLS.

    Raises OSError (ssl.SSLError) for files that cannot be read or used.
    """
    if not url.encrypted:
        return None
    options: dict[str, Any] = tls_defaults(url) | dict(parse_url(url.first()))
    ours = {name: value for name, value in options.items() if name.startswith("ssl_")}
    context: ssl.SSLContext = SSLConnection(**ours).ssl_context.get()
    return context
