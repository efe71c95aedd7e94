"""Requests that are refused before they are routed."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from server.web.serving.heads import MAX_FIELDS, MAX_TARGET_BYTES
from testkit.running import StartWeb, Web
from testkit.uploads import assert_problem, upload
from tests.server.web.serving.test_http import AN_UPGRADE, assert_raw_problem, exchange
from tryon.protocol.paths import SESSIONS

OVER = b"Connection: close\r\n\r\n"


def request(target: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    """Return a request as bytes; its fields are exactly ``lines``."""
    head = [f"{method} {target} HTTP/{version}", *lines]
    return "".join([f"{line}\r\n" for line in head]).encode("latin-1") + OVER


# -- the path --------------------------------------------------------------------------

PATHS = [
    "/",
    "/metrics",
    "/api/health",
    "/api/health/live",
    "/api/docs",
    "/static/tryon.js",
    SESSIONS,
    f"{SESSIONS}/x/ws",
]


@pytest.mark.parametrize("code", ["%00", "%01", "%09", "%0a", "%0A", "%0d", "%1f", "%7f", "%c2%80", "%C2%85", "%c2%9f"])
async def test_control_character_in_path_is_refused(web: Web, code: str) -> None:
    """C0, DEL and C1 anywhere in a path are 400, also where the route would match."""
    for target in (*[path + code for path in PATHS], f"/api{code}/health", f"/{code}", f"{SESSIONS}/{code}/events"):
        assert_raw_problem(await exchange(web, request(target, "Host: x")), 400)


@pytest.mark.parametrize("code", ["%e2%80%a8", "%e2%80%a9", "%e2%80%ae", "%ef%bb%bf", "%c2%ad"])
async def test_invisible_character_in_path_is_refused(web: Web, code: str) -> None:
    """Line and paragraph separators, bidirectional controls and the like, too."""
    assert_raw_problem(await exchange(web, request(f"/nothing{code}", "Host: x")), 400)


async def test_control_character_is_refused_on_sockets(web: Web) -> None:
    """A handshake is refused before it is accepted."""
    session, token = await web.submit()
    target = f"{SESSIONS}/{session.id}/ws%0a".encode()
    assert_raw_problem(await exchange(web, b"GET %b HTTP/1.1\r\n" % target + AN_UPGRADE + b"\r\n"), 400)
    async with web.follow(session.id, token):
        pass


@pytest.mark.parametrize(
    "path", ["/api/docs", "/api/health", "/metrics", "/api/openapi.json", SESSIONS, f"{SESSIONS}/x"]
)
async def test_trailing_slash_never_redirects(web: Web, path: str) -> None:
    """No answer leads to where Host points: the path with a slash is another one."""
    for target in (f"{path}/", f"/{path}", f"//evil.example{path}/", f"{path}//"):
        answer = await exchange(web, request(target, "Host: evil.example"))
        assert answer.startswith(b"HTTP/1.1 404 "), target
        assert b"evil.example" not in answer
        assert b"\r\nlocation:" not in answer.lower()


# -- the host --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "version", "status"),
    [
        (["Host: x"], "1.1", 200),
        ([], "1.1", 400),
        ([], "1.0", 200),  # HTTP/1.0 has no such field
        (["Host: x", "Host: x"], "1.1", 400),
        (["Host: x", "Host: evil.example"], "1.0", 400),
        (["Host:"], "1.1", 400),
        (["Host: a b"], "1.1", 400),
        (["Host: user@x"], "1.1", 400),
        (["Host: x/y"], "1.1", 400),
        (["Host: x, y"], "1.1", 400),
        (["Host: x", "Origin: http://x", "Origin: http://x"], "1.1", 400),
        (["Host: x", "Origin: null", "Origin: http://localhost"], "1.1", 400),
    ],
)
async def test_request_has_one_host_and_at_most_one_origin(
    web: Web, lines: list[str], version: str, status: int
) -> None:
    """RFC 9112 section 3.2, also for the paths of probes."""
    for path in ("/api/health/live", "/api/health"):
        heard = await exchange(web, request(path, *lines, version=version))
        if status == 400:
            assert_raw_problem(heard, 400)
        else:
            assert heard.startswith(b"HTTP/1.1 200 ")


async def test_guarded_path_is_served_under_any_name(start_web: StartWeb) -> None:
    """Monitoring asks each process by its address, and shows a token."""
    token = "t" * 32
    web = await start_web(hosts=("shop.example",), private_paths=token)
    for path in ("/metrics", "/api/health"):
        for authorization, status in ((f"Bearer {token}", 200), ("Bearer wrong", 401)):
            fields = {"Host": "10.0.0.7:8000", "Authorization": authorization}
            assert (await web.client.get(path, headers=fields)).status_code == status
    open_to_all = await start_web(hosts=("shop.example",), private_paths="open")
    assert_problem(await open_to_all.client.get("/metrics", headers={"Host": "10.0.0.7:8000"}), 421, "bad_request")


async def test_unknown_host_is_misdirected(start_web: StartWeb) -> None:
    """421 for HTTP and sockets alike; liveness and readiness answer under any name."""
    web = await start_web(hosts=("shop.example", "*.shop.example"))
    session, _ = await web.submit()
    for host in ("evil.example", "127.0.0.1", "shop.example.evil"):
        assert_problem(await web.client.get(SESSIONS, headers={"Host": host}), 421, "bad_request")
        for path in ("/api/health/live", "/api/health/ready"):
            assert (await web.client.get(path, headers={"Host": host})).status_code == 200
    for host in ("shop.example:8000", "WWW.Shop.example.", "a.b.shop.example"):
        assert (await web.client.get("/", headers={"Host": host})).status_code == 200
    target = f"{SESSIONS}/{session.id}/ws".encode()
    raw = b"GET %b HTTP/1.1\r\n" % target + AN_UPGRADE.replace(b"Host: x", b"Host: evil.example") + b"\r\n"
    assert_raw_problem(await exchange(web, raw), 421)
    assert_raw_problem(await exchange(web, request("/", version="1.0")), 421)


async def test_trusted_proxy_names_the_host(start_web: StartWeb) -> None:
    """X-Forwarded-Host is what the client asked for; Host is the proxy's own word."""
    settings: dict[str, Any] = {"hosts": ("shop.example",), "trusted_proxies": (ip_network("127.0.0.0/8"),)}
    web = await start_web(**settings)

    async def status(**headers: str) -> int:
        answer = await web.client.get("/", headers={name.replace("_", "-"): value for name, value in headers.items()})
        return answer.status_code

    assert await status(Host="inner:8000", X_Forwarded_Host="shop.example") == 200
    assert await status(Host="shop.example", X_Forwarded_Host="evil.example") == 421
    assert await status(Host="shop.example", X_Forwarded_Host="not a host") == 400
    assert await status(Host="shop.example") == 200
    stranger = await start_web(hosts=("shop.example",))
    headers = {"Host": "inner", "X-Forwarded-Host": "shop.example"}
    assert (await stranger.client.get("/", headers=headers)).status_code == 421


async def test_links_hold_neither_host_nor_scheme(start_web: StartWeb) -> None:
    """A path is right under every name and scheme that a proxy serves."""
    web = await start_web(trusted_proxies=(ip_network("127.0.0.0/8"),))
    made = await upload(web, Host="inner", **{"X-Forwarded-Host": "shop.example", "X-Forwarded-Proto": "https"})
    assert made.status_code == 201
    assert made.headers["Location"].startswith(f"{SESSIONS}/")
    links = [link for link in made.json()["links"].values() if link]
    assert len(links) >= 3
    assert all(link.startswith("/api/tryon/") for link in links)


# -- bounds ----------------------------------------------------------------------------


async def test_long_target_is_414(web: Web) -> None:
    """30,000 parameters, or a path of 60,000 bytes, are refused with the head."""
    for target in ("/api/health/live?" + "a&" * 30_000, "/" + "x" * 60_000, "/" + "%41" * 20_000):
        assert_raw_problem(await exchange(web, request(target, "Host: x")), 414)
    most = "/api/health/live?" + "x" * (MAX_TARGET_BYTES - 17)
    assert (await exchange(web, request(most, "Host: x"))).startswith(b"HTTP/1.1 200 ")


async def test_many_header_fields_are_431(web: Web) -> None:
    """A request has as many fields as clients and proxies need, and no more."""
    assert_raw_problem(await exchange(web, request("/", "Host: x", *["a: b"] * MAX_FIELDS)), 431)
    most = request("/api/health/live", "Host: x", *["a: b"] * (MAX_FIELDS - 2))
    assert (await exchange(web, most)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "lines",
    [
        ["Sec-WebSocket-Protocol: " + "a," * 25_000],
        ["Sec-WebSocket-Protocol: a, b"] * 40,
        ["If-None-Match: " + '"a",' * 12_000],
        ["Origin: http://localhost", "Access-Control-Request-Headers: " + "accept," * 7_000],
    ],
)
async def test_long_list_in_header_is_refused(web: Web, lines: list[str]) -> None:
    """A list that the product would split is counted first."""
    assert_raw_problem(await exchange(web, request("/api/health", "Host: x", *lines)), 400)


async def test_many_parameters_are_refused(web: Web) -> None:
    """65 parameters fit the target, and are more than any request needs."""
    assert_problem(await web.client.get("/api/health?" + "a&" * 64), 400, "bad_request")
    assert (await web.client.get("/api/health?" + "a&" * 63)).status_code == 200


async def test_lists_that_are_not_read_may_be_long(web: Web) -> None:
    """Cookies and Accept are never split."""
    headers = {"Cookie": "; ".join(["a=b"] * 8_000), "Accept": "text/html," * 900}
    assert (await web.client.get("/api/health", headers=headers)).status_code == 200
