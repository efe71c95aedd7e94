"""Hosts and origins as texts: what they mean, and what they are compared with."""

from __future__ import annotations

import pytest

from server.config.authorities import (
    Authority,
    Origin,
    ServedHosts,
    foreign_origin_allowed,
    is_loopback,
    parse_authority,
    parse_origin,
    served_name,
)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("shop.example", Authority("shop.example", None)),
        ("SHOP.Example.", Authority("shop.example", None)),
        ("shop.example:8443", Authority("shop.example", 8443)),
        ("shop.example:", Authority("shop.example", None)),
        ("tryon_upstream", Authority("tryon_upstream", None)),
        ("127.0.0.1:80", Authority("127.0.0.1", 80)),
        ("[::1]:8000", Authority("[::1]", 8000)),
        ("[0:0:0:0:0:0:0:1]", Authority("[::1]", None)),
        ("[2001:DB8::1]", Authority("[2001:db8::1]", None)),
        *[
            (text, None)
            for text in (
                "", " ", "a b", "shop.example ", "shop.example:80:80", "127.0.0.1:1.evil.example", "user@shop.example",
                "shop.example:65536", "shop.example:-1", "shop.example:٣", "shop.example/", "shop.example?x", "a#b",
                "::1", "[::1", "[::1]x", "[:::1]", "[1.2.3.4]", "[fe80::1%25eth0]", "héllo", "a\n", "a\0b", "a,b",
                "x" * 256, "x" * 100_000,
            )
        ],
    ],
)  # fmt: skip
def test_authority_is_parsed_whole_or_refused(text: str, parsed: Authority | None) -> None:
    """Case, a trailing dot and the form of an IPv6 address make no difference."""
    assert parse_authority(text) == parsed


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("https://shop.example", Origin("https", "shop.example", None)),
        ("HTTPS://Shop.Example:443", Origin("https", "shop.example", None)),
        ("http://shop.example:80", Origin("http", "shop.example", None)),
        ("http://shop.example:443", Origin("http", "shop.example", 443)),
        ("http://[::1]:3000", Origin("http", "[::1]", 3000)),
        ("capacitor://localhost", Origin("capacitor", "localhost", None)),
        ("app://.", Origin("app", ".", None)),
        ("app://-", Origin("app", "-", None)),
        ("chrome-extension://abcdefghijklmnop", Origin("chrome-extension", "abcdefghijklmnop", None)),
        *[
            (text, None)
            for text in (
                "", "null", "localhost", "//localhost", "http:localhost", "http:/localhost", "http://", "http://[",
                "http://localhost/", "http://localhost:", "http://localhost?", "http://localhost#", "file://",
                "http://127.0.0.1:1.evil.example", "http://localhost:1@evil.example", "http://evil.example@localhost",
                "http://localhost\\.evil.example", "http://localhost http://evil.example", " http://localhost",
                "http://localhost\t", "http://localhost\n", "http://localhost,http://evil.example", "http://lo%63alhost",
                "http://ⓛocalhost", "1http://localhost", "http://localhost:65536", f"http://{'x' * 100_000}",
            )
        ],
    ],
)  # fmt: skip
def test_origin_is_parsed_whole_or_refused(text: str, parsed: Origin | None) -> None:
    """An origin is scheme, host and port, and nothing before or after them."""
    assert parse_origin(text) == parsed


APPS = ("capacitor://localhost", "ionic://localhost", "tauri://localhost", "app://shop")


@pytest.mark.parametrize(
    ("text", "configured", "allowed"),
    [
        *[
            (text, (), True)
            for text in (
                "http://localhost", "http://localhost:3000", "https://127.0.0.1", "https://[::1]:1", "HTTP://LOCALHOST",
                "http://localhost.", "http://[0:0:0:0:0:0:0:1]",
            )
        ],
        *[
            (text, (), False)
            for text in (
                "http://127.0.0.1:1.evil.example", "ftp://localhost", "http://localhost.evil", "null", "",
                "http://user@localhost", "http://localhost:pass@evil.example", "https://shop.example",
                "http://127.0.0.2", "http://0.0.0.0", "ws://localhost", *APPS,
            )
        ],
        *[(text, APPS, True) for text in (*APPS, "Capacitor://LOCALHOST")],
        *[
            (text, APPS, False)
            for text in (
                "http://localhost", "capacitor://evil", "capacitor://localhost:1", "capacitor://localhost.evil",
                "app://shop/x", "null",
            )
        ],
        ("https://shop.example:443", ("https://shop.example",), True),
        ("https://shop.example", ("https://SHOP.example:443",), True),
        ("http://shop.example", ("https://shop.example",), False),
        ("https://shop.example.evil", ("https://shop.example",), False),
    ],
)  # fmt: skip
def test_foreign_origin_is_allowed_by_its_parts(text: str, configured: tuple[str, ...], allowed: bool) -> None:
    """Without configured origins local pages may connect, else exactly those."""
    assert foreign_origin_allowed(text, configured) is allowed


@pytest.mark.parametrize(
    "configured",
    [(), ("shop.example",), ("*.shop.example",), ("shop.example:8443", "x"), ("[::1]",), ("shop.example", "*")],
)
def test_served_name_is_served(configured: tuple[str, ...]) -> None:
    """The stack's own probe names a host that is served."""
    assert serves(served_name(configured, "127.0.0.1:8000"), *configured)


def serves(host: str, *configured: str, bound: str = "0.0.0.0") -> bool:
    asked = parse_authority(host)
    assert asked is not None
    return ServedHosts(configured, bound=bound).serves(asked)


@pytest.mark.parametrize(
    ("host", "configured", "served"),
    [
        ("shop.example", ("shop.example",), True),
        ("SHOP.example.:8443", ("Shop.Example",), True),  # without a port any port is served
        ("shop.example:8443", ("shop.example:8443",), True),
        ("shop.example", ("shop.example:8443",), False),
        ("shop.example:1", ("shop.example:8443",), False),
        ("a.shop.example", ("shop.example",), False),
        ("a.shop.example", ("*.shop.example",), True),
        ("a.b.shop.example:80", ("*.shop.example",), True),
        ("shop.example", ("*.shop.example",), False),
        ("evilshop.example", ("*.shop.example",), False),
        ("shop.example.evil", ("shop.example", "*.shop.example"), False),
        ("[0::1]:8000", ("[::1]",), True),
        ("[::1]:8000", ("[::1]:9000",), False),
        ("127.0.0.1", ("shop.example",), False),
        ("any.thing", ("shop.example", "*"), True),
    ],
)
def test_configured_host_is_served(host: str, configured: tuple[str, ...], served: bool) -> None:
    """An entry names a host, a host at one port, or all subdomains of a name."""
    assert serves(host, *configured) is served


@pytest.mark.parametrize(
    ("bound", "host", "served"),
    [
        ("127.0.0.1", "shop.example", True),
        ("::1", "shop.example", True),
        ("localhost", "shop.example", True),
        ("0.0.0.0", "shop.example", False),
        ("0.0.0.0", "192.0.2.1:8000", True),
        ("::", "[2001:db8::1]:8000", True),
        ("0.0.0.0", "localhost:8000", True),
        ("box.internal", "box.internal:8000", True),
        ("box.internal", "box.internal.evil", False),
    ],
)
def test_any_host_is_served_on_loopback_only(bound: str, host: str, served: bool) -> None:
    """Elsewhere a name that a foreign name server can point here needs the setting."""
    assert serves(host, bound=bound) is served
    assert is_loopback("0.0.0.0") is False
