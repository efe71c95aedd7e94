"""Static files."""

from __future__ import annotations

import asyncio

import pytest

from testkit.running import Web


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
