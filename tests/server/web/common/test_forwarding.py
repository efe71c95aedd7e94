"""Nodes of X-Forwarded-For as proxies write them."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from server.web.common.forwarding import MAX_HOPS, forwarded_address, node_address

LAN = (ip_network("10.0.0.0/8"),)


@pytest.mark.parametrize(
    ("node", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7:51234", "203.0.113.7"),
        ("203.0.113.7:_obfuscated", "203.0.113.7"),
        ('"203.0.113.7:51234"', "203.0.113.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:DB8::1]:443", "2001:db8::1"),
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("[::ffff:203.0.113.7]:443", "203.0.113.7"),
        *[
            (node, None)
            for node in (
                "unknown", "_hidden", "_hidden:80", "", '"', '""', "[]", "[", "203.0.113.7:", "203.0.113.700",
                "203.0.113.7:1:2", "[203.0.113.7]:80", "2001:db8::1]:80", "[2001:db8::1]80", "shop.example",
                "203.0.113.07", "<script>", "x" * 100_000, "[" * 99,
            )
        ],
    ],
)  # fmt: skip
def test_node_is_read_as_proxies_write_it(node: str, address: str | None) -> None:
    """With or without a port, brackets and quotes; a node may also be unknown."""
    assert node_address(node) == address


def test_hops_are_read_from_the_right_up_to_a_bound() -> None:
    """A long list costs no more than its right end, in one field or in several."""
    many = ["203.0.113.7", *["10.0.0.2"] * (MAX_HOPS - 1)]
    assert forwarded_address("10.0.0.1", [", ".join(many)], LAN) == "203.0.113.7"
    assert forwarded_address("10.0.0.1", many, LAN) == "203.0.113.7"
    many.append("10.0.0.2")
    assert forwarded_address("10.0.0.1", [",".join(many)], LAN) == "10.0.0.2"
    assert forwarded_address("10.0.0.1", many, LAN) == "10.0.0.2"
