"""The origin of a request against the host that it came to."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from server.config.settings import Config
from server.web.common.origins import origin_allowed
from tests.server.web.common.kit import PROXIES, connection


@pytest.mark.parametrize(
    ("origin", "origins", "allowed"),
    [
        (None, (), True),
        ("http://shop.example", (), True),  # its own, see Host
        ("http://SHOP.example:80", (), True),
        ("https://shop.example", (), False),
        ("http://shop.example:8080", (), False),
        ("http://localhost:3000", (), True),
        ("https://[::1]", (), True),
        ("http://127.0.0.1.evil.example", (), False),
        ("http://127.0.0.1:1.evil.example", (), False),
        ("ftp://localhost", (), False),
        ("null", (), False),
        ("", (), False),
        ("http://[", (), False),
        ("https://app.example", ("https://app.example",), True),
        ("capacitor://localhost", ("capacitor://localhost",), True),
        ("http://shop.example", ("https://app.example",), True),
        ("http://localhost:3000", ("https://app.example",), False),
        ("https://app.example.evil.example", ("https://app.example",), False),
    ],
)
def test_origin_decides_whether_page_may_connect(origin: str | None, origins: tuple[str, ...], allowed: bool) -> None:
    """The own origin always may; others as configured, else only this machine's."""
    headers = {"Host": "shop.example"} | ({} if origin is None else {"Origin": origin})
    assert origin_allowed(connection(headers), Config(origins=origins)) is allowed


def test_two_origins_are_refused_even_if_equal() -> None:
    """No browser sends two; which of them a proxy judged is unknown."""
    own = ("Origin", "http://shop.example")
    assert origin_allowed(connection([("Host", "shop.example"), own]), Config())
    assert not origin_allowed(connection([("Host", "shop.example"), own, own]), Config())


@pytest.mark.parametrize(
    ("peer", "proxies", "allowed"),
    [
        ("10.0.0.1", PROXIES, True),
        ("::ffff:10.0.0.1", PROXIES, True),
        (None, PROXIES, True),  # over a Unix socket: a local proxy
        ("203.0.113.9", PROXIES, False),
        ("10.0.0.1", (), False),
    ],
)
def test_only_trusted_proxy_reports_https(peer: str | None, proxies: Any, allowed: bool) -> None:
    """X-Forwarded-Proto counts only from a trusted proxy."""
    headers = {"Host": "shop.example", "Origin": "https://shop.example", "X-Forwarded-Proto": "https"}
    assert origin_allowed(connection(headers, peer=peer), Config(trusted_proxies=proxies)) is allowed


@pytest.mark.parametrize(
    ("forwarded", "origin", "allowed"),
    [
        ([("X-Forwarded-Host", "shop.example"), ("X-Forwarded-Proto", "https")], "https://shop.example", True),
        ([("X-Forwarded-Host", "shop.example:8443"), ("X-Forwarded-Proto", "wss")], "https://shop.example:8443", True),
        ([("X-Forwarded-Host", "evil.example, shop.example")], "http://shop.example", True),
        ([("X-Forwarded-Host", "evil.example, shop.example")], "http://evil.example", False),
        ([("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Host", "shop.example")], "http://shop.example", True),
        ([("X-Forwarded-Host", "shop.example")], "http://inner:8000", False),
        ([("X-Forwarded-Host", "")], "http://inner:8000", True),
        ([("X-Forwarded-Proto", "http"), ("X-Forwarded-Proto", "HTTPS")], "https://inner:8000", True),
    ],
)
def test_trusted_proxy_names_host_of_page(forwarded: list[tuple[str, str]], origin: str, allowed: bool) -> None:
    """X-Forwarded-Host and -Proto of the nearest proxy make the own origin."""
    headers = [("Host", "inner:8000"), ("Origin", origin), *forwarded]
    trusting = Config(trusted_proxies=(ip_network("10.0.0.0/8"),))
    assert origin_allowed(connection(headers), trusting) is allowed
    if origin != "http://inner:8000":
        assert not origin_allowed(connection(headers, peer="203.0.113.9"), trusting)
