"""Which hosts a processor may reach: those of its operator's settings, and no others.

Pure decisions. :mod:`~worker.processors.upstream` asks before each connection, for each
redirect and for the address that the name stands for at that moment.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import httpx

from server.domain.addresses import Address, embedded, is_public

PORTS: Final = {"http": 80, "https": 443}


class Refused(Exception):
    """A connection that the operator's settings do not allow.

    The text names the host and nothing else of the URL.
    """


@dataclass(frozen=True, slots=True)
class Origin:
    """An allowed scheme, host and port; ``*`` stands for any one label of the host."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Return the origin of ``https://host``, ``http://host:port`` or ``host``.

        Raises ValueError.
        """
        try:
            url = httpx.URL(text if "://" in text else f"https://{text}")
        except (httpx.InvalidURL, TypeError) as error:
            raise ValueError(f"{text!r} is no host") from error
        if url.scheme not in PORTS or not url.host or url.userinfo or url.query or url.fragment or url.path != "/":
            raise ValueError(f"{text!r} is not a host like https://api.example.com")
        origin = cls.of(url)
        labels = origin.host.split(".")
        if any("*" in label and label != "*" for label in labels) or "*" in labels[-2:]:
            raise ValueError(f"{text!r}: in a host, * is a whole label, and none of the last two")
        return origin

    @classmethod
    def of(cls, url: httpx.URL) -> Origin:
        """Return the origin of a URL."""
        return cls(url.scheme, host_of(url), url.port or PORTS.get(url.scheme, 0))

    def covers(self, other: Origin) -> bool:
        """Return whether this one allows the other."""
        if (self.scheme, self.port) != (other.scheme, other.port):
            return False
        mine, others = self.host.split("."), other.host.split(".")
        return len(mine) == len(others) and all(label in ("*", name) for label, name in zip(mine, others, strict=True))


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts that may be reached.

    A name whose address is private, or of this machine, must stand in ``private``; an
    address that is written out in ``allowed``, and ``localhost``, need not. An address
    of the link, where clouds keep their credentials, must be written out.
    """

    allowed: tuple[Origin, ...]
    private: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, allowed: Iterable[str], private: Iterable[str] = ()) -> Hosts:
        """Return the hosts of settings. Raises ValueError: one line."""
        origins = tuple(Origin.parse(each) for each in allowed)
        names = frozenset(Origin.parse(each).host for each in private)
        for name in names:
            if "*" in name:
                raise ValueError(f"{name!r}: a private host is named in full")
        return cls(origins, names)

    def check(self, url: httpx.URL) -> None:
        """Return if the URL's host may be asked. Raises :class:`Refused`."""
        if url.userinfo:
            raise Refused("a URL with a user name")
        origin = Origin.of(url)
        if not any(each.covers(origin) for each in self.allowed):
            raise Refused(f"{origin.scheme}://{origin.host}:{origin.port} is no allowed host")

    def check_address(self, host: str, address: Address) -> None:
        """Return if the host may have this address. Raises :class:`Refused`."""
        if is_public(address):
            return
        meant = embedded(address)
        if _literal(host) is not None or (host == "localhost" and meant.is_loopback):
            return  # it stands in the settings, which check() has seen
        never = meant.is_link_local or meant.is_unspecified or meant.is_multicast
        if host in self.private and not never:
            return
        raise Refused(f"{host} has an address that is not public")


def host_of(url: httpx.URL) -> str:
    """Return the host in ASCII and small letters, without a dot at its end."""
    return url.raw_host.decode("ascii").lower().rstrip(".")


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
