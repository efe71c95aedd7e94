"""Header fields, lists in them, and the query: parsed in linear time, and bounded.

A head may hold 64 KiB, which is 30,000 parameters or members of a list. Nothing that
the product reads needs more than a few of either, so :func:`excess` counts before
anything is split.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from starlette.types import Scope

MAX_PARAMETERS: Final = 64
"""Maximum parameters of a query; more are refused."""

MAX_MEMBERS: Final = 64
"""Maximum members of a list in header fields (RFC 9110 section 5.6.1)."""

LISTS: Final = frozenset({b"sec-websocket-protocol", b"if-none-match", b"access-control-request-headers"})
"""Header fields that are split at commas."""


def fields(scope: Scope, name: bytes) -> list[str]:
    """Return the values of a header field, whose name is given in lower case.

    Starlette's Headers take ten times as long, and thousands of clients reconnect at
    once.
    """
    return [value.decode("latin-1") for each, value in scope["headers"] if each == name]


def field(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a header field, or None."""
    return next((value.decode("latin-1") for each, value in scope["headers"] if each == name), None)


def members(values: list[str]) -> list[str]:
    """Return the members of a comma-separated list, without the empty ones."""
    return [name for value in values for member in value.split(",") if (name := member.strip())]


def query(scope: Scope) -> dict[str, str]:
    """Return the parameters of the query; of two with the same name the last counts."""
    raw: bytes = scope["query_string"]
    return dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True)) if raw else {}


def excess(scope: Scope) -> str | None:
    """Return which bound a request exceeds, as a sentence, or None.

    It counts separators and decodes nothing; a request that exceeds a bound is refused
    before anything of it is split.
    """
    if scope["query_string"].count(b"&") >= MAX_PARAMETERS:
        return f"A query has at most {MAX_PARAMETERS} parameters."
    counts: dict[bytes, int] = {}
    for name, value in scope["headers"]:
        if name in LISTS:
            counts[name] = counts.get(name, 0) + value.count(b",") + 1
            if counts[name] > MAX_MEMBERS:
                return f"{name.decode().title()} has at most {MAX_MEMBERS} members."
    return None
