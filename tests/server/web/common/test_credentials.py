"""Credentials and addresses, each rule by itself."""

from __future__ import annotations

import pytest

from server.config.settings import Config
from server.domain.tokens import token_hash
from server.web.common.credentials import (
    client_address,
    counted,
    credential_of,
    offered_subprotocols,
    token_of,
)
from tests.server.web.common.kit import PROXIES, connection
from tryon.protocol.errors import Unauthorized

TOKEN, OTHER = "t" * 43, "o" * 43


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer  {TOKEN} "},
        {"X-Client-Token": TOKEN},
        {"Sec-WebSocket-Protocol": f"tryon.v1, tryon.bearer.{TOKEN}"},
        {"Sec-WebSocket-Protocol": f"tryon.bearer.{TOKEN},tryon.v1"},
        {"Authorization": f"Bearer {TOKEN}", "X-Client-Token": OTHER},
        {"Authorization": "Basic dXNlcjpwYXNz", "X-Client-Token": TOKEN},
    ],
)
def test_token_is_read_from_three_places(headers: dict[str, str]) -> None:
    """Authorization wins over X-Client-Token, and that over the subprotocol pair."""
    assert token_of(connection(headers)) == TOKEN
    assert credential_of(connection(headers, query="ticket=x")).owner == token_hash(TOKEN)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Sec-WebSocket-Protocol": f"tryon.bearer.{TOKEN}"},
        {"Cookie": TOKEN},
    ],
)
def test_token_is_read_from_nowhere_else(headers: dict[str, str]) -> None:
    """Then a ticket is the credential, or there is none."""
    assert token_of(connection(headers)) is None
    assert credential_of(connection(headers, query="ticket=abc")).ticket == "abc"
    assert credential_of(connection(headers)).owner is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer short"},
        {"X-Client-Token": ""},
        {"X-Client-Token": "a b" * 10},
        {"Sec-WebSocket-Protocol": "tryon.v1, tryon.bearer."},
    ],
)
def test_malformed_token_is_refused(headers: dict[str, str]) -> None:
    """It gets invalid_token, not the answer to a missing one."""
    with pytest.raises(Unauthorized) as refusal:
        token_of(connection(headers))
    assert refusal.value.code == "invalid_token"


def test_subprotocols_join_several_headers() -> None:
    """Empty names are dropped."""
    asked = connection([("Sec-WebSocket-Protocol", "a, b"), ("Sec-WebSocket-Protocol", "c,,")])
    assert offered_subprotocols(asked) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # not a proxy of ours: its word counts for nothing
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),  # the left part was written by the client
        ("10.0.0.1", "6.6.6.6, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1, garbage", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, garbage, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", " , ,", "10.0.0.1"),
        ("::1", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.1", "<script>", "10.0.0.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),  # the proxy, as seen by a socket that listens on ::
        ("10.0.0.1", "198.51.100.1, ::FFFF:10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.7:51234", "203.0.113.7"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.7:51234, 10.0.0.2:80", "203.0.113.7"),
        ("::1", "[2001:db8::7]:51234, [::1]", "2001:db8::7"),
        ("10.0.0.1", "203.0.113.7, unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7, unknown, 10.0.0.2", "10.0.0.2"),
    ],
)
def test_client_is_first_address_before_proxies(peer: str, forwarded: str, expected: str) -> None:
    """Read from the right, the first address that is not a trusted proxy's."""
    asked = connection({"X-Forwarded-For": forwarded}, peer=peer)
    assert client_address(asked, Config(trusted_proxies=PROXIES)) == expected
    assert client_address(asked, Config()) == peer.removeprefix("::ffff:")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_ipv6_client_is_counted_by_network(address: str, expected: str) -> None:
    """Its /64 is one client."""
    assert counted(address) == expected


def test_forwarded_headers_count_as_one() -> None:
    """Several fields are read as one list."""
    asked = connection([("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "198.51.100.1")])
    assert client_address(asked, Config(trusted_proxies=PROXIES)) == "198.51.100.1"
