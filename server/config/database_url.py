"""The URL of a database: what ``TRYON_DATABASE_URL`` says, without a driver.

URLs of PostgreSQL are written for libpq (``?sslmode=require``), whose words are not
those of asyncpg. Each word is mapped or refused here, so that none is first noticed
when a connection is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from tryon.protocol.numbers import whole_number

SQLITE: Final = "sqlite+aiosqlite"
POSTGRESQL: Final = "postgresql+asyncpg"
_SCHEMES: Final = {
    "sqlite": SQLITE, SQLITE: SQLITE,
    "postgres": POSTGRESQL, "postgresql": POSTGRESQL, POSTGRESQL: POSTGRESQL,
}  # fmt: skip

DRIVER_WORDS: Final = frozenset(
    {
        "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation",
        "ssl_min_protocol_version", "ssl_max_protocol_version", "passfile", "krbsrvname", "gsslib",
    }
)  # fmt: skip
"""Words of libpq that asyncpg reads from a URL of its own."""

SERVER_WORDS: Final = frozenset({"application_name", "options"})
"""Words that go to the server as they are."""

SAME_AS_EVER: Final = {
    "target_session_attrs": ("primary", "read-write"),
    "client_encoding": ("utf8", "UTF8", "utf-8", "UTF-8", "auto"),
    "gssencmode": ("disable", "prefer"),
    "channel_binding": ("disable", "prefer"),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}
"""Words with the values that ask for what the product does anyway."""

SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """The parts of a URL.

    ``path``: SQLite's file; None: in memory. ``address``: the URL of PostgreSQL without
    its query. ``driver``: words for asyncpg; ``server``: settings of each connection.
    ``pooled``: whether a connection pooler gives each transaction another connection of
    the server's, so that no prepared statement outlives it.
    """

    sqlite: bool
    path: str | None = None
    address: str = ""
    driver: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    server: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    connect_seconds: int | None = None
    pooled: bool = False

    @property
    def driver_url(self) -> str | None:
        """Return the words for asyncpg as the query of a URL, None without any."""
        return f"postgresql://?{urlencode(self.driver)}" if self.driver else None


def sqlite_url(path: Path) -> str:
    """Return the URL of a file, whose name may hold any character."""
    return f"{SQLITE}:///{quote(str(path))}"


def parse_database_url(text: str) -> DatabaseUrl:
    """Return the parts of a URL.

    Raises ValueError with the reason, which does not quote the URL: it may hold a
    password.
    """
    scheme, found, rest = text.partition("://")
    if not found or scheme not in _SCHEMES:
        raise ValueError("must begin with sqlite:// or postgresql://")
    rest, _, query = rest.partition("?")
    if _SCHEMES[scheme] == SQLITE:
        return _sqlite(rest, query)
    return _postgresql(rest, query)


def _sqlite(rest: str, query: str) -> DatabaseUrl:
    if query:
        raise ValueError("SQLite takes no parameters; a ? in a path is written %3F")
    if rest and not rest.startswith("/"):
        raise ValueError("the path of an SQLite file follows three slashes: sqlite:///tryon.sqlite3")
    path = unquote(rest[1:])
    if "\0" in path:
        raise ValueError("a path holds no NUL")
    return DatabaseUrl(sqlite=True, path=None if path in ("", ":memory:") else path)


def _postgresql(rest: str, query: str) -> DatabaseUrl:
    driver: dict[str, str] = {}
    server: dict[str, str] = {}
    places: dict[str, str] = {}
    seconds, pooled = None, False
    for word, value in parse_qsl(query, keep_blank_values=True):
        if word in ("sslmode", "ssl"):  # the latter is what asyncpg calls it
            driver["sslmode"] = _one_of(word, value, SSL_MODES)
        elif word in DRIVER_WORDS:
            driver[word] = value
        elif word in SERVER_WORDS:
            server[word] = value
        elif word in ("host", "port"):
            places[word] = value
        elif word == "connect_timeout":
            if not (seconds := whole_number(value)):
                raise ValueError("connect_timeout must be a number of seconds")
        elif word == "pgbouncer":
            pooled = _one_of(word, value, ("true", "false")) == "true"
        elif word in SAME_AS_EVER:
            _one_of(word, value, SAME_AS_EVER[word])
        else:
            raise ValueError(f"the parameter {word!r} is not supported; take it out of the URL")
    address = f"{POSTGRESQL}://{rest}" + (f"?{urlencode(places)}" if places else "")
    try:
        urlsplit(address).port  # noqa: B018  # raises ValueError
    except ValueError:
        if "," not in rest:  # else there are several hosts, each with its port
            raise ValueError("the port is malformed, or the password holds a character that is not escaped") from None
    return DatabaseUrl(
        sqlite=False, address=address, driver=driver, server=server, connect_seconds=seconds, pooled=pooled
    )


def _one_of(word: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{word} must be {' or '.join(allowed)}")
    return value
