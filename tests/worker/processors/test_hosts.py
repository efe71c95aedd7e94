"""Which hosts and addresses a processor may reach."""

from __future__ import annotations

import ipaddress

import httpx
import pytest

from worker.processors.hosts import Hosts, Refused

HOSTS = Hosts.parse(
    [
        "https://api.example.com",
        "http://gpu.lan:5000",
        "https://*.media.example",
        "https://delivery.*.cdn.example",
        "http://localhost:7860",
    ],
    private=["gpu.lan"],
)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1/run?x=1",
        "https://API.example.com./v1",
        "https://api.example.com:443/",
        "http://gpu.lan:5000/predictions",
        "https://v3.media.example/a.png",
        "https://delivery.eu4.cdn.example/a.png",
        "http://localhost:7860/",
    ],
)
def test_host_is_allowed_when_the_settings_name_it(url: str) -> None:
    """Scheme, host and port are those of the settings."""
    HOSTS.check(httpx.URL(url))


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com/",  # plain
        "https://api.example.com:8443/",
        "https://api.example.com.evil.example/",
        "https://evil.example/api.example.com",
        "https://api.example.com@evil.example/",
        "https://user:secret@api.example.com/",
        "https://media.example/",  # the wildcard wants a label
        "https://evilmedia.example/",
        "https://a.b.media.example/",  # one label
        "https://evil.eu4.cdn.example/",
        "http://gpu.lan/",
        "http://127.0.0.1:7860/",
        "http://[::1]:7860/",
        "ftp://api.example.com/",
        "file:///etc/passwd",
        "//api.example.com/",
    ],
)
def test_host_is_refused_when_the_settings_do_not_name_it(url: str) -> None:
    """Anything else of the URL counts for nothing, and stands in no error."""
    with pytest.raises(Refused) as refused:
        HOSTS.check(httpx.URL(url))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07::1", "64:ff9b::5db8:d70e"])
def test_public_address_is_allowed(address: str) -> None:
    """A name of the internet stands for an address of the internet."""
    HOSTS.check_address("api.example.com", ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1"),
        *("::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1", "fe80::1%1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe"),
        "2001:0:a00:1:0:0:80ff:fffe",  # Teredo of 127.0.0.1
    ],
)
def test_private_address_is_refused_whatever_its_form(address: str) -> None:
    """Private, loopback, link-local, reserved, and IPv4 inside of IPv6."""
    with pytest.raises(Refused):
        HOSTS.check_address("api.example.com", ipaddress.ip_address(address))


def test_private_host_may_be_private_but_not_of_the_link() -> None:
    """A cloud's credentials at 169.254.169.254 are reached by no name."""
    for address in ("10.1.2.3", "127.0.0.1", "100.64.0.1", "fc00::1"):
        HOSTS.check_address("gpu.lan", ipaddress.ip_address(address))
    for address in ("169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "::ffff:169.254.169.254"):
        with pytest.raises(Refused):
            HOSTS.check_address("gpu.lan", ipaddress.ip_address(address))


def test_written_address_and_localhost_need_no_permission_more() -> None:
    """The operator has written the very address."""
    hosts = Hosts.parse(["http://127.0.0.1:5000", "http://[::1]:5000", "http://localhost:5000"])
    for host, address in (("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("localhost", "127.0.0.1")):
        hosts.check_address(host, ipaddress.ip_address(address))
    with pytest.raises(Refused):
        hosts.check_address("localhost", ipaddress.ip_address("10.0.0.1"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "https://", "https://*", "https://*.com", "https://a*.example.com", "ftp://a.example"),
        *("https://a.example/x", "https://user@a.example", "https://a.example?x", "https://a.example:x"),
        "https://a.*.example",
    ],
)
def test_malformed_host_is_an_error_at_the_start(text: str) -> None:
    """A setting that would allow too much, or nothing, is not taken."""
    with pytest.raises(ValueError, match="host"):
        Hosts.parse([text])
