"""Server-Sent Events pass a default nginx and a compressing proxy without delay."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from testkit.following import blocks
from testkit.nginx import running_nginx
from testkit.plugin import missing
from testkit.processes import spawn
from testkit.running import Web

COMPRESSING: Final = """
const http = require("node:http");
const zlib = require("node:zlib");
const [target] = process.argv.slice(1);
const server = http.createServer(({ method, url, headers }, down) => {
  http.get({ host: "127.0.0.1", port: target, method, path: url, headers }, (up) => {
    const kept = /(?:^|,)\\s*no-transform\\s*(?:,|$)/.test(up.headers["cache-control"] ?? "");
    const zipped = !kept && /gzip/.test(headers["accept-encoding"] ?? "") && /^text\\//.test(up.headers["content-type"]);
    down.writeHead(up.statusCode, zipped ? { ...up.headers, "content-encoding": "gzip" } : up.headers);
    (zipped ? up.pipe(zlib.createGzip()) : up).pipe(down);
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"""
"""A proxy that compresses as Express's ``compression`` does.

That is all text without ``no-transform``.
"""

SOON_SECONDS: Final = 5.0
"""Maximum time for a frame to arrive; a proxy that buffers keeps it to the end."""


@contextlib.asynccontextmanager
async def compressing_proxy(target: int) -> AsyncIterator[int]:
    node = shutil.which("node")
    if node is None:
        missing("Node.js")
    process = await spawn(node, "-e", COMPRESSING, str(target), piped=True)
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def proxied(kind: str, target: int, folder: Path) -> AsyncIterator[int]:
    if kind == "nginx":
        async with running_nginx(target, folder) as nginx:
            yield nginx.port
    else:
        async with compressing_proxy(target) as port:
            yield port


@pytest.mark.parametrize("kind", ["nginx", "compressing"])
async def test_each_frame_passes_proxy_at_once(web: Web, tmp_path: Path, kind: str) -> None:
    """Both the snapshot and a later event arrive while the stream is open."""
    session, token = await web.submit()
    headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "gzip"}
    url = f"/api/tryon/sessions/{session.id}/events"
    async with (
        proxied(kind, web.port, tmp_path / "nginx") as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
        asyncio.timeout(SOON_SECONDS),
        client.stream("GET", url, headers=headers) as response,
    ):
        arriving = blocks(response)
        assert (await anext(arriving)).frame["type"] == "snapshot"
        await web.begin(session)
        assert (await anext(arriving)).frame["event"] == "processing"
