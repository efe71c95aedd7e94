"""The forms of a Redis URL: one server, a socket, Sentinels, or a cluster.

``redis://user:password@host:port/db``, ``unix:///path``, ``redis+sentinel://user:password@
host:port,host:port/master/db`` and ``redis+cluster://user:password@host:port,host:port``;
with ``rediss`` instead of ``redis`` every connection is encrypted. The words after
``?`` are redis-py's options, and for Sentinels two more: ``sentinel_username`` and
``sentinel_password``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

_DATABASE: Final = re.compile(r"/?[0-9]*", re.ASCII)
"""The path of a server's URL: the number of a database, or nothing."""

_MASTER: Final = re.compile(r"/([A-Za-z0-9._-]+)(?:/([0-9]*))?", re.ASCII)
"""The path of a URL with Sentinels: the name of a master, then that of a server."""

_SENTINEL_WORDS: Final = ("sentinel_username", "sentinel_password")

Node = tuple[str, int]
"""Host and port."""


class Form(Enum):
    """The way in which a URL leads to a server."""

    SERVER = "server"
    SOCKET = "socket"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_PORTS: Final = {Form.SERVER: 6379, Form.SENTINEL: 26379, Form.CLUSTER: 6379}

_EXAMPLES: Final = {
    Form.SERVER: "redis://host:6379/0 or unix:///path",
    Form.SOCKET: "redis://host:6379/0 or unix:///path",
    Form.SENTINEL: "redis+sentinel://host:26379,host:26379/master/0",
    Form.CLUSTER: "redis+cluster://host:6379,host:6379",
}


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL. It holds passwords, and its ``repr`` shows none.

    ``nodes``: the servers, Sentinels or nodes of the cluster that it names; none of a
    socket.
    """

    form: Form
    encrypted: bool
    nodes: tuple[Node, ...]
    master: str
    _text: str
    _userinfo: str
    _database: str
    _options: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return f"<RedisUrl {self.form.value} {self.nodes}>"

    def at(self, node: Node) -> str:
        """Return the URL, as redis-py takes it, of one server of this installation."""
        options = [pair for pair in self._options if pair[0] not in _SENTINEL_WORDS]
        return self._server(self._userinfo, node, self._database, options)

    def sentinel_at(self, node: Node) -> str:
        """Return the URL of one Sentinel: its own credentials, the same TLS."""
        options = dict(self._options)
        username, password = (quote(options.get(word, ""), safe="") for word in _SENTINEL_WORDS)
        userinfo = f"{username}:{password}@" if password else ""
        return self._server(userinfo, node, "", [pair for pair in self._options if pair[0].startswith("ssl_")])

    def first(self) -> str:
        """Return a URL that redis-py takes, of the first server that is named."""
        return self._text if self.form in (Form.SERVER, Form.SOCKET) else self.at(self.nodes[0])

    def file_options(self) -> dict[str, str]:
        """Return the options that name a file, which must be readable."""
        return {name: path for name, path in self._options if name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")}

    def option(self, name: str) -> str | None:
        """Return an option of the URL."""
        return dict(self._options).get(name)

    def _server(self, userinfo: str, node: Node, database: str, options: list[tuple[str, str]]) -> str:
        host = f"[{node[0]}]" if ":" in node[0] else node[0]
        query = f"?{urlencode(options)}" if options else ""
        return f"redis{'s' * self.encrypted}://{userinfo}{host}:{node[1]}/{database}{query}"


_SCHEMES: Final = {
    "redis": (Form.SERVER, False),
    "rediss": (Form.SERVER, True),
    "unix": (Form.SOCKET, False),
    "redis+sentinel": (Form.SENTINEL, False),
    "rediss+sentinel": (Form.SENTINEL, True),
    "redis+cluster": (Form.CLUSTER, False),
    "rediss+cluster": (Form.CLUSTER, True),
}


def parse_redis_url(text: str) -> RedisUrl:
    """Parse a URL of any form. Raises ValueError, without a password in its text."""
    scheme, found, rest = text.partition("://")
    if not found or scheme not in _SCHEMES:
        names = [f"{name}://" for name in _SCHEMES]
        raise ValueError(f"must begin with {', '.join(names[:-1])} or {names[-1]}")
    form, encrypted = _SCHEMES[scheme]
    try:
        parts = urlsplit(f"redis://{rest}")  # the same rules whatever the scheme
        userinfo, at, hosts = parts.netloc.rpartition("@")
        options = tuple(parse_qsl(parts.query))
        nodes = () if form is Form.SOCKET else tuple(_node(each, _PORTS[form]) for each in hosts.split(","))
        master, database = _path(form, parts.path, len(nodes))
    except ValueError:  # its words may show the password
        raise ValueError(f"must look like {_EXAMPLES[form]}") from None
    return RedisUrl(form, encrypted, nodes, master, text, userinfo + at, database, options)


def _path(form: Form, path: str, nodes: int) -> tuple[str, str]:
    """Return the master and the number of the database; raise ValueError."""
    master, database = "", path.lstrip("/")
    if form is Form.SENTINEL:
        found = _MASTER.fullmatch(path)
        master, database = (found[1], found[2] or "") if found else ("", "")
        fits = found is not None
    elif form is Form.SOCKET:
        fits = bool(path)
    elif form is Form.CLUSTER:
        fits = path in ("", "/", "/0")
        database = ""
    else:
        fits = nodes == 1 and _DATABASE.fullmatch(path) is not None
    if not fits:
        raise ValueError(path)
    return master, database


def _node(text: str, port: int) -> Node:
    parts = urlsplit(f"//{text}")
    if parts.port == 0:
        raise ValueError(text)
    return unquote(parts.hostname or "localhost"), parts.port or port
