"""Addresses of webhooks: read by one grammar, and allowed by name.

``urlsplit`` finds a host where another client finds a second one; here the whole text
matches a grammar, or it is no address (:mod:`.authorities`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from server.config.authorities import DEFAULT_PORTS, Authority, parse_authority, parse_host_pattern

MAX_URL_LENGTH: Final = 1000

_URL: Final = re.compile(r"(https?)://([^/?#@\\]{1,300})((?:/[!$-;=?-\[\]_a-z~]*)?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class WebhookUrl:
    """An address, taken apart: what is connected to, and what is asked for there."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Return the value of ``Host``."""
        return self.host if self.port == DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    def allowed_by(self, hosts: Sequence[str]) -> bool:
        """Return whether an entry of ``TRYON_WEBHOOK_HOSTS`` names this host.

        An entry without a port stands for the scheme's own port.
        """
        asked = Authority(self.host, self.port)
        for entry in hosts:
            pattern = parse_host_pattern(entry)
            usual = self.port == DEFAULT_PORTS[self.scheme]
            if pattern is not None and pattern.matches(asked) and (usual or pattern.port is not None):
                return True
        return False


def parse_webhook_url(text: str) -> WebhookUrl:
    """Return the address. Raises ValueError with the reason."""
    match = _URL.fullmatch(text) if len(text) <= MAX_URL_LENGTH else None
    authority = parse_authority(match[2]) if match else None
    if match is None or authority is None:
        raise ValueError("must be an address like https://shop.example/tryon")
    port = authority.port or DEFAULT_PORTS[match[1]]
    return WebhookUrl(match[1], authority.host, port, match[3] or "/")
