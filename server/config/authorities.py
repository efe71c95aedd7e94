"""Hosts and origins as clients and settings write them: parsed once, then compared.

``urlsplit("http://127.0.0.1:1.evil.example").hostname`` is ``127.0.0.1``, so an origin
that is split may pass for another one. Here the whole text matches a grammar, or it is
no origin. Every parser takes time linear in its text, and text of any length; the last
few short ones are remembered, since every request of a client has the same.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Final

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Hosts of this machine, as a URL names them."""

MAX_LENGTH: Final = 300
"""Characters of the longest authority or origin; a DNS name has at most 253."""

_AUTHORITY: Final = r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,255})(?::([0-9]{0,5}))?"
_HOST: Final = re.compile(_AUTHORITY)
_ORIGIN: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31})://" + _AUTHORITY)
_PATTERN: Final = re.compile(r"(\*\.)?" + _AUTHORITY)


@dataclass(frozen=True, slots=True)
class Authority:
    """A host in lower case, without a trailing dot, and its port (None: the default).

    An IPv6 address stands in brackets, in its shortest form (RFC 5952).
    """

    host: str
    port: int | None


@dataclass(frozen=True, slots=True)
class Origin:
    """An origin (RFC 6454): scheme, host and port (None: the scheme's default)."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def of(cls, scheme: str, authority: Authority) -> Origin:
        """Return the origin of a URL with this scheme and authority."""
        port = None if authority.port == DEFAULT_PORTS.get(scheme) else authority.port
        return cls(scheme, authority.host, port)


@dataclass(frozen=True, slots=True)
class HostPattern:
    """One entry of ``TRYON_HOSTS``.

    ``host``: with ``below``, the name whose subdomains are meant, of any depth, and not
    the name itself. ``port``: None stands for any port.
    """

    host: str
    port: int | None
    below: bool = False

    def matches(self, asked: Authority) -> bool:
        """Return whether the entry names this host and port."""
        if self.port is not None and asked.port != self.port:
            return False
        return asked.host.endswith(f".{self.host}") if self.below else asked.host == self.host


ANY: Final = "*"
"""The entry of ``TRYON_HOSTS`` that stands for every name."""


def parse_authority(text: str) -> Authority | None:
    """Return the value of a ``Host`` field; None if it is malformed.

    A name has letters, digits, ``.``, ``-`` and ``_``; user information is no part of
    it (RFC 9110 section 7.2). An empty port counts as none (RFC 3986 section 3.2.3).
    """
    return _parsed_authority(text) if len(text) <= MAX_LENGTH else None


@functools.lru_cache(maxsize=256)
def _parsed_authority(text: str) -> Authority | None:
    match = _HOST.fullmatch(text)
    return _authority(match[1], match[2]) if match else None


def parse_origin(text: str) -> Origin | None:
    """Return the value of an ``Origin`` field; None if it is malformed or ``null``.

    The scheme may be any: applications have their own (``capacitor://localhost``).
    """
    return _parsed_origin(text) if len(text) <= MAX_LENGTH else None


@functools.lru_cache(maxsize=256)
def _parsed_origin(text: str) -> Origin | None:
    match = _ORIGIN.fullmatch(text)
    if match is None or match[3] == "":
        return None
    authority = _authority(match[2], match[3])
    return Origin.of(match[1].lower(), authority) if authority else None


def parse_host_pattern(text: str) -> HostPattern | None:
    """Return an entry of ``TRYON_HOSTS``; None if it is malformed.

    ``shop.example``, ``shop.example:8443``, ``*.shop.example``, ``192.0.2.1``,
    ``[2001:db8::1]``.
    """
    match = _PATTERN.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None or match[3] == "":
        return None
    authority = _authority(match[2], match[3])
    if authority is None or (match[1] and authority.host.startswith("[")):
        return None
    return HostPattern(authority.host, authority.port, below=bool(match[1]))


def _authority(host: str, port: str | None) -> Authority | None:
    number = int(port) if port else None
    if number is not None and number > 65535:
        return None
    host = host.lower()
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            return None
    elif len(host) > 1:  # "." alone is a name that applications use: app://.
        host = host.removesuffix(".")
    return Authority(host, number)


# -- the rules -------------------------------------------------------------------------


def foreign_origin_allowed(text: str, configured: tuple[str, ...]) -> bool:
    """Return whether pages of an origin that is not the service's own may connect.

    ``configured``: ``TRYON_ORIGINS``. Without any, the pages of this machine may.
    """
    origin = parse_origin(text)
    if origin is None:
        return False
    if configured:
        return origin in _origins(configured)
    return origin.scheme in DEFAULT_PORTS and origin.host in LOCAL_HOSTS


class ServedHosts:
    """The hosts that requests may name.

    ``configured``: ``TRYON_HOSTS``; ``bound``: ``TRYON_HOST``. Without the former a
    server that listens on loopback serves any name, since its proxy has checked it.
    Any other one serves what no foreign name server can point at it: IP addresses,
    ``localhost``, and the names of this machine.
    """

    __slots__ = ("_addresses", "_any", "_patterns")

    def __init__(self, configured: tuple[str, ...], *, bound: str) -> None:
        self._any = ANY in configured or (not configured and is_loopback(bound))
        self._addresses = not configured
        self._patterns = _patterns(configured or ("localhost", bound, socket.gethostname()))

    def __repr__(self) -> str:
        return f"<ServedHosts any={self._any} patterns={len(self._patterns)}>"

    def serves(self, asked: Authority) -> bool:
        """Return whether a request may name this host."""
        return (
            self._any
            or (self._addresses and _is_address(asked.host))
            or any(pattern.matches(asked) for pattern in self._patterns)
        )

    @property
    def any(self) -> bool:
        """Return whether every name is served, also none (HTTP/1.0)."""
        return self._any


def served_name(configured: tuple[str, ...], address: str) -> str:
    """Return a ``Host`` that is served, for a request of this machine to ``address``.

    ``configured``: ``TRYON_HOSTS``.
    """
    pattern = next(iter(_patterns(configured)), None)
    if pattern is None or ANY in configured:
        return address
    port = "" if pattern.port is None else f":{pattern.port}"
    return f"{'www.' if pattern.below else ''}{pattern.host}{port}"


def is_loopback(bound: str) -> bool:
    """Return whether only this machine can connect to a server that listens there."""
    if bound == "localhost":
        return True
    try:
        return ipaddress.ip_address(bound.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=8)
def _origins(configured: tuple[str, ...]) -> frozenset[Origin]:
    return frozenset(origin for text in configured if (origin := parse_origin(text)))


@functools.lru_cache(maxsize=8)
def _patterns(configured: tuple[str, ...]) -> tuple[HostPattern, ...]:
    return tuple(pattern for text in configured if (pattern := parse_host_pattern(text)))
