"""Addresses of webhooks: one grammar, and an allow-list by name."""

from __future__ import annotations

import pytest

from server.config.webhook_url import parse_webhook_url


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("https://shop.example", "shop.example", 443, "/"),
        ("https://Shop.Example:8443/a/b?c=d%20e", "shop.example", 8443, "/a/b?c=d%20e"),
        ("http://[2001:DB8::1]/", "[2001:db8::1]", 80, "/"),
    ],
)
def test_address_is_taken_apart(text: str, host: str, port: int, path: str) -> None:
    """What is connected to, and what is asked for there."""
    url = parse_webhook_url(text)
    assert (url.host, url.port, url.path) == (host, port, path)


@pytest.mark.parametrize(
    "text",
    [
        "", "shop.example", "ftp://shop.example/", "https://", "https:///path", "https://user:pass@shop.example/",
        "https://shop.example#part", "https://shop.example/#part", "https://shop.example\\@evil.example/",
        "https://127.0.0.1:1.evil.example/", "https://shop.example/a b", "https://shop.example/\r\nHost: evil",
        "https://shop.example:99999/", "https://shop.example/é", "https://shop.example/" + "a" * 1000,
        "HTTPS://shop.example/", " https://shop.example/",
    ],
)  # fmt: skip
def test_address_is_refused_when_malformed(text: str) -> None:
    """Two clients must not read two hosts from one address."""
    with pytest.raises(ValueError, match="address"):
        parse_webhook_url(text)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("https://hooks.shop.example/", True),
        ("https://shop.example/", False),
        ("https://hooks.shop.example:8443/", False),
        ("https://a.partner.example/", True),
        ("https://a.b.partner.example/", True),
        ("https://partner.example/", False),
        ("https://evilpartner.example/", False),
        ("https://partner.example.evil.example/", False),
        ("https://test.example:8443/", True),
        ("https://test.example/", False),
        ("https://hooks.shop.example./", True),
    ],
)
def test_only_listed_hosts_are_allowed(text: str, allowed: bool) -> None:
    """By name and port; an entry without a port means the usual one."""
    hosts = ("hooks.shop.example", "*.partner.example", "test.example:8443")
    assert parse_webhook_url(text).allowed_by(hosts) is allowed
    assert not parse_webhook_url(text).allowed_by(())
