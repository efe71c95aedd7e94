"""How the text of a setting becomes its value.

Each parser raises ValueError with the reason, in words that follow the setting's name.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from server.config.authorities import ANY, parse_host_pattern, parse_origin
from server.config.database_url import parse_database_url
from server.config.redis_url import Form, parse_redis_url
from server.config.webhook_url import parse_webhook_url
from tryon.protocol.numbers import decimal, whole_number


@dataclass(frozen=True, slots=True)
class UploadRate:
    """At most ``limit`` uploads, or crashes, in any ``seconds``, per client address."""

    limit: int
    seconds: int


def text(value: str) -> str:
    """Return the value as it is."""
    return value


def path(value: str) -> Path:
    """Return a path; ``~`` is a user's home."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("there is no such home folder") from None


def names(value: str) -> str:
    """Parse comma-separated names; return them without spaces."""
    found = [each.strip() for each in value.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise ValueError("names are separated by single commas, and none comes twice")
    return ",".join(found)


def number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], Any]:
    """Return a parser of numbers within bounds."""

    def parse(text: str) -> Any:
        sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
        value = whole_number(digits) if kind is int else decimal(digits)
        if value is None:
            raise ValueError("must be a number")
        if not low <= sign * value <= high:
            raise ValueError(f"must be from {low:g} to {high:g}")
        return sign * value

    return parse


def integer(low: int = 1, high: int = 2**31 - 1) -> Callable[[str], Any]:
    """Return a parser of whole numbers within bounds."""
    return number(int, low, high)


def seconds(low: float = 0.01, high: float = 10 * 365 * 86400) -> Callable[[str], Any]:
    """Return a parser of durations in seconds within bounds."""
    return number(float, low, high)


def or_off(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser that also takes ``off``, which means None."""
    return lambda text: None if text == "off" else parse(text)


def prices(value: str) -> tuple[tuple[str, float], ...]:
    """Parse ``unit=price`` and ``processor:unit=price``, separated by commas."""
    found: dict[str, float] = {}
    for part in words(value):
        unit, equals, price = part.partition("=")
        amount = decimal(price)
        if not re.fullmatch(r"(?:[^:=]+:)?[a-z][a-z0-9_]{0,31}", unit) or not equals or amount is None or unit in found:
            raise ValueError("must look like gpu_seconds=0.0008,cog:credits=0.04, each once")
        found[unit] = amount
    return tuple(found.items())


def choice(*allowed: str) -> Callable[[str], str]:
    """Return a parser of one word out of ``allowed``."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return parse


def rate(text: str) -> UploadRate | None:
    """Parse ``<count>/<unit>``; ``off`` means None."""
    if text == "off":
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,8})/(second|minute|hour)", text)
    if not match:
        raise ValueError("must look like 10/minute, 5/second, 100/hour, or be off")
    return UploadRate(int(match[1]), {"second": 1, "minute": 60, "hour": 3600}[match[2]])


def networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Parse IP networks and addresses, separated by commas or white space."""
    return tuple(ipaddress.ip_network(part) for part in words(text))


def words(text: str) -> tuple[str, ...]:
    """Split at commas and white space."""
    return tuple(part for part in re.split(r"[\s,]+", text) if part)


def origins(text: str) -> tuple[str, ...]:
    """Parse Origins (RFC 6454), separated by commas or white space."""
    for origin in words(text):
        if parse_origin(origin) is None:
            raise ValueError(f"{origin!r} is not an origin like https://shop.example or capacitor://localhost")
    return words(text)


def hosts(text: str) -> tuple[str, ...]:
    """Parse hosts that are served, separated by commas or white space."""
    for host in words(text):
        if host != ANY and parse_host_pattern(host) is None:
            raise ValueError(f"{host!r} is not a host like shop.example, *.shop.example, [::1]:8000 or *")
    return words(text)


WEBHOOK_PREFIX: Final = "whsec_"
"""Begins the secret of a webhook."""

SECRET_BYTES: Final = 32
"""Minimum length of a secret key."""

EXAMPLE_SECRET: Final = "at-least-32-characters-the-same-everywhere"  # noqa: S105 - public, hence refused
"""The secret key that docs/deploying.md shows."""


def secret_keys(text: str) -> tuple[str, ...]:
    """Parse secret keys of at least 32 bytes each, the signing one first."""
    keys = words(text)
    if not keys or any(len(key.encode()) < SECRET_BYTES for key in keys):
        raise ValueError(f"each key needs at least {SECRET_BYTES} bytes; `openssl rand -base64 48` makes one")
    if EXAMPLE_SECRET in keys:
        raise ValueError("the key of the documentation is public; `openssl rand -base64 48` makes one")
    return keys


OPEN: Final = "open"
LOOPBACK: Final = "loopback"


def private_paths(text: str) -> str:
    """Parse ``open``, ``loopback``, or a bearer token (RFC 6750) of 32 characters."""
    if text not in (OPEN, LOOPBACK) and not re.fullmatch(r"[A-Za-z0-9._~+/-]{32,512}=*", text):
        raise ValueError(f"must be {OPEN}, {LOOPBACK}, or a token of at least 32 characters of A-Z a-z 0-9 . _ ~ + / -")
    return text


OPERATOR_TOKEN: Final = re.compile(r"[A-Za-z0-9._~-]{22,512}", re.ASCII)
"""A token of an operator: 22 characters in base64url hold 128 random bits."""


def operator_tokens(text: str) -> tuple[str, ...]:
    """Parse the tokens of operators, separated by commas or white space."""
    tokens = words(text)
    if not tokens or not all(OPERATOR_TOKEN.fullmatch(token) for token in tokens):
        raise ValueError(
            "each token needs at least 22 characters of A-Z a-z 0-9 . _ ~ -; `openssl rand -hex 32` makes one"
        )
    return tokens


def private_token(rule: str | None) -> str | None:
    """Return the token that opens private paths, if the rule asks for one."""
    return None if rule in (None, OPEN, LOOPBACK) else rule


def database_url(text: str) -> str:
    """Parse the URL of a database that the product supports."""
    parse_database_url(text)
    return text


def redis_url(text: str) -> str:
    """Parse the URL of a Redis or Valkey server, of Sentinels or of a cluster."""
    parse_redis_url(text)
    return text


def queue_redis_url(text: str) -> str:
    """Parse the URL of a Redis that can hold the queue: no cluster."""
    if parse_redis_url(text).form is Form.CLUSTER:
        raise ValueError("must be a single server or Sentinels: arq uses commands over several keys")
    return text


def on_or_off(text: str) -> bool:
    """Parse ``on`` or ``off``."""
    return choice("on", "off")(text) == "on"


def http_url(text: str) -> str:
    """Return an http or https URL without a user name."""
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:  # its words may show the password
        fits = False
    if not fits:
        raise ValueError("must be an http or https URL, without a user name")
    return text


def sentry_dsn(text: str) -> str:
    """Parse the address of a project of Sentry: ``https://KEY@HOST/PROJECT``."""
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname and parts.username and parts.path.strip("/"))
    except ValueError:  # its words may show the key
        fits = False
    if not fits:
        raise ValueError("must look like https://KEY@HOST/PROJECT")
    return text


def headers(text: str) -> tuple[tuple[str, str], ...]:
    """Return header fields that are written as ``Name=value, Name=value``."""
    found = tuple((name.strip(), value.strip()) for name, _, value in (each.partition("=") for each in text.split(",")))
    if not all(re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name, re.ASCII) and value for name, value in found):
        raise ValueError("must be Name=value, several separated by commas")
    return found


def yes_or_no(text: str) -> bool:
    """Parse ``yes`` or ``no``."""
    return choice("yes", "no")(text) == "yes"


def webhook_url(text: str) -> str:
    """Parse the address of a webhook."""
    return str(parse_webhook_url(text))


def webhook_hosts(text: str) -> tuple[str, ...]:
    """Parse hosts that webhooks may be sent to."""
    for host in words(text):
        if parse_host_pattern(host) is None:
            raise ValueError(f"{host!r} is not a host like shop.example, *.shop.example or [::1]:8000")
    return words(text)


def webhook_secrets(text: str) -> tuple[bytes, ...]:
    """Parse secrets as Standard Webhooks writes them."""
    return tuple(_webhook_secret(secret) for secret in words(text))


def _webhook_secret(text: str) -> bytes:
    try:
        secret = base64.b64decode(text.removeprefix(WEBHOOK_PREFIX), validate=True)
    except ValueError:
        secret = b""
    if not text.startswith(WEBHOOK_PREFIX) or not 24 <= len(secret) <= 64:
        raise ValueError(f"each secret is {WEBHOOK_PREFIX} and the base64 of 24 to 64 bytes")
    return secret
