"""The documented nginx, run as it stands in docs/setup.md."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from server.config.settings import Config
from testkit.documents import text_of
from testkit.nginx import Nginx, running_nginx
from testkit.running import running_web

DENIED = (
    "/metrics",
    "/metrics/", "/metrics%0a", "/metrics%0A%0a", "/metrics%00", "/metrics%20", "//metrics", "/x/../metrics", "/%6detrics",
    "/metrics?x=1",
    "/metrics;x", "/api/health", "/api/health/", "/api/health%0a", "/api//health", "/api/./health", "/%61pi/health%0a",
    "/api/health?x", "/api/health/live%0a", "/api/health/live/x", "/api/health/live/../", "/api/health%2f",
)  # fmt: skip


@pytest.fixture
async def nginx(config: Callable[..., Config], tmp_path: Path) -> AsyncIterator[Nginx]:
    """Run the documented block before a web process."""
    (block,) = re.findall(r"```nginx\n(.*?)```", text_of("docs/setup.md"), re.DOTALL)
    async with running_web(config()) as web:
        locations = block.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{web.port}")
        async with running_nginx(web.port, tmp_path / "nginx", locations=locations) as running:
            yield running


async def get(nginx: Nginx, target: str) -> tuple[int, str]:
    """Return the status and the rest of an answer to this very target."""
    reader, writer = await asyncio.open_connection("127.0.0.1", nginx.port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read(-1)).decode(errors="replace")
    writer.close()
    return int(answer.split(" ", 2)[1]), answer


async def test_documented_proxy_denies_private_paths(nginx: Nginx) -> None:
    """In every form that leads to them; what the orchestrator needs passes."""
    for target in DENIED:
        status, answer = await get(nginx, target)
        assert status in (400, 404), target
        assert "tryon_" not in answer and '"checks"' not in answer, target
    for target in ("/", "/api/health/live", "/api/health/ready", "/api/openapi.json"):
        assert (await get(nginx, target))[0] == 200, target
