"""Static files."""

from __future__ import annotations

import asyncio

import pytest

from testkit.running import Web
from tryon.protocol.paths import DOCS, LIVE, SESSIONS


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
    assert policy["script-src"] == "'self'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), (DOCS, 200), ("/static/app.js", 200), (LIVE, 200), ("/nothing", 404), (SESSIONS, 401)],
)
async def test_every_answer_is_taken_by_its_type_and_names_no_version(web: Web, path: str, status: int) -> None:
    """No answer has a cookie, a name of the software, or a type to guess."""
    answer = await web.client.get(path)
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not {"server", "x-powered-by", "set-cookie"} & set(answer.headers)
