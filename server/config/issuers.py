"""The issuers of users' JWTs, as the settings name them."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from server.config import parsing

ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Signatures that a setting may allow (RFC 7518 section 3, RFC 8037).

Neither ``none`` nor ``HS…``: a key that verifies those can also sign.
"""

_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")
"""One scope (RFC 6749 section 3.3)."""


def parse_key_url(text: str) -> str:
    """Return the address of an issuer or its keys.

    https, or http on this machine; without a user name and a fragment. Raises
    ValueError.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if not host or port == 0 or parts.username is not None or parts.fragment or not text.isascii() or " " in text:
        raise ValueError("must look like https://login.shop.example/")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError("must begin with https, except on this machine")
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with https")
    return text


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[\s,]+", text) if part)


def issuers(text: str) -> tuple[str, ...]:
    """Parse issuers, exactly as their tokens write them."""
    return tuple(parse_key_url(each) for each in _split(text))


def algorithms(text: str) -> tuple[str, ...]:
    """Parse algorithms of signatures."""
    for each in _split(text):
        if each not in ALGORITHMS:
            raise ValueError(f"must be some of {', '.join(ALGORITHMS)}")
    return _split(text)


def scope(text: str) -> str:
    """Parse one scope."""
    if not _SCOPE.fullmatch(text):
        raise ValueError("must be one scope, without spaces")
    return text


def owner_key(text: str) -> str:
    """Parse the key of owners' ids."""
    if len(text.encode()) < parsing.SECRET_BYTES:
        raise ValueError(f"needs at least {parsing.SECRET_BYTES} bytes; `openssl rand -base64 48` makes one")
    return text


def on_or_off(text: str) -> bool:
    """Parse ``on`` or ``off``."""
    return parsing.choice("on", "off")(text) == "on"
