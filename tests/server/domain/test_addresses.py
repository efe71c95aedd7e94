"""Addresses of the public internet, and all others."""

from __future__ import annotations

import ipaddress

import pytest

from server.domain.addresses import is_public


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("100.64.0.1", False),
        ("192.168.1.1", False),
        ("224.0.0.1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b:1::a00:1", False),
        ("::10.0.0.1", False),
        ("fec0::1", False),
        ("2002:a00:1::", False),
        ("64:ff9b::5db8:d70e", True),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
    ],
)
def test_public_addresses_are_told_from_others(address: str, public: bool) -> None:
    """In all the forms in which one address may hide in another."""
    assert is_public(ipaddress.ip_address(address)) is public
