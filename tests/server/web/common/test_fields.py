"""Header fields and queries: parsed, and bounded by counting."""

from __future__ import annotations

import timeit
from typing import Any

import pytest

from server.web.common.fields import LISTS, MAX_MEMBERS, MAX_PARAMETERS, excess, members, query


def scope(raw: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None) -> dict[str, Any]:
    return {"query_string": raw, "headers": headers or []}


def test_query_keeps_last_of_equal_names() -> None:
    """Escapes and blank values are read; a name without ``=`` is blank."""
    assert query(scope(b"a=1&a=2&b=%C3%BC+x&c&d=")) == {"a": "2", "b": "ü x", "c": "", "d": ""}
    assert query(scope()) == {}


def test_members_join_several_fields() -> None:
    """Empty members are dropped."""
    assert members(["a, b", "c,,", ""]) == ["a", "b", "c"]


def test_excess_is_found_by_counting() -> None:
    """The last allowed count passes, one more does not; equal fields count together."""
    assert excess(scope(b"&".join([b"a=1"] * MAX_PARAMETERS))) is None
    assert "parameters" in (excess(scope(b"&".join([b"a=1"] * (MAX_PARAMETERS + 1)))) or "")
    for name in LISTS:
        assert excess(scope(headers=[(name, b"a")] * MAX_MEMBERS)) is None
        assert excess(scope(headers=[(name, b"a")] * (MAX_MEMBERS + 1)))
        assert excess(scope(headers=[(name, b"a," * MAX_MEMBERS)]))
    assert excess(scope(headers=[(b"cookie", b"a," * 1000), (b"accept", b"a," * 1000)])) is None


@pytest.mark.parametrize("raw", [b"a&", b"a=%41&", b"&"])
def test_refusing_long_query_costs_less_than_reading_short_one(raw: bytes) -> None:
    """Refusing 30,000 parameters costs less than 5 times reading 64."""
    longest, refused = scope(b"a=%41&" * (MAX_PARAMETERS - 1)), scope(raw * 30_000)
    assert excess(longest) is None
    reading = min(timeit.repeat(lambda: query(longest), number=20, repeat=5))
    assert min(timeit.repeat(lambda: excess(refused), number=20, repeat=5)) < 5 * reading
