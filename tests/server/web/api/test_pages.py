"""Static files."""

from __future__ import annotations

import asyncio
import re

import pytest

from server.web.api.static_files import static_directory
from testkit.running import StartWeb, Web
from tryon.protocol.paths import ASYNCAPI, DOCS, LIVE, OPENAPI, SESSIONS


@pytest.mark.parametrize(
    "path",
    ["/static/../secret.key", "/static/%2e%2e/%2e%2e/etc/passwd", "/static/" + "x" * 3000, "/static/"],
)
async def test_static_path_stays_in_its_folder(web: Web, path: str) -> None:
    """Traversal, long names and folders are all a 404."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)  # httpx would tidy the path up
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("path", ["/", DOCS])
async def test_pages_tell_browsers_what_they_may_do(web: Web, path: str) -> None:
    """Own scripts alone, no frame around them, no base, no forms, no referrer."""
    headers = (await web.client.get(path)).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert re.fullmatch(r"'self' 'sha256-[\w+/]{43}='", policy["script-src"]), "own files, and the import map"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"


async def test_pages_connect_to_own_names_alone(start_web: StartWeb) -> None:
    """The host that was asked for, and the configured origins; no other socket."""
    web = await start_web(origins=("https://shop.example", "capacitor://localhost"), trusted_proxies=(), hosts=("*",))
    for path in ("/", DOCS):
        for host, named in (
            ("tryon.example:8443", ["ws://tryon.example:8443", "wss://tryon.example:8443"]),
            ("[::1]:8000", []),
        ):
            headers = (await web.client.get(path, headers={"Host": host})).headers
            policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
            assert policy["connect-src"].split() == ["'self'", *named, "wss://shop.example"]
    file = await web.client.get("/static/index.html")
    assert "connect-src 'self';" in file.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), (DOCS, 200), ("/static/tryon.js", 200), (LIVE, 200), ("/nothing", 404), (SESSIONS, 401)],
)
async def test_every_answer_is_taken_by_its_type_and_names_no_version(web: Web, path: str, status: int) -> None:
    """No answer has a cookie, a name of the software, or a type to guess."""
    answer = await web.client.get(path)
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not {"server", "x-powered-by", "set-cookie"} & set(answer.headers)


async def test_page_loads_files_that_caches_keep(web: Web) -> None:
    """Each under a name that lasts, and compressed where that helps."""
    page = await web.client.get("/")
    assert page.headers["Cache-Control"] == "no-cache"
    assert page.headers["Content-Encoding"] == "gzip"
    names = re.findall(r'"(/static/[^"]+\.[0-9a-f]{16}\.\w+)"', page.text)
    assert len(set(names)) > 5
    for name in set(names):
        answer = await web.client.get(name)
        assert answer.status_code == 200, name
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable", name
        if name.endswith((".js", ".css", ".svg")):
            assert answer.headers["Content-Encoding"] == "gzip", name


@pytest.mark.parametrize("path", ["/", DOCS, OPENAPI, ASYNCAPI, "/static/tryon.js"])
async def test_unchanged_page_is_not_sent_again(web: Web, path: str) -> None:
    """A name that stays is asked for each time, and answered with 304."""
    first = await web.client.get(path)
    assert first.headers["Cache-Control"] == "no-cache"
    again = await web.client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_client_script_is_served_as_it_is_written(web: Web) -> None:
    """Under its own name, whole, to pages of any server."""
    answer = await web.client.get("/static/tryon.js", headers={"Accept-Encoding": "identity"})
    assert answer.content == (static_directory() / "tryon.js").read_bytes()
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
