"""The proxies of docs/compatibility.md, configured as docs/deploying.md says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from server.config.parsing import UploadRate
from server.config.settings import Config
from testkit.following import Step, end, follow
from testkit.nginx import running_nginx
from testkit.proxies import running_proxy
from testkit.running import Web, running_web
from tryon.protocol.paths import SESSIONS

MakeConfig = Callable[..., Config]

DENIED = (
    "/metrics",
    "/metrics/", "/metrics%0a", "/metrics%0A%0a", "/metrics%00", "/metrics%20", "//metrics", "/x/../metrics", "/%6detrics",
    "/metrics?x=1",
    "/metrics;x", "/api/health", "/api/health/", "/api/health%0a", "/api//health", "/api/./health", "/%61pi/health%0a",
    "/api/health?x", "/api/health/live%0a", "/api/health/live/x", "/api/health/live/../", "/api/health%2f",
)  # fmt: skip


def trusting(config: MakeConfig, **settings: Any) -> Config:
    return config(trusted_proxies=(ip_network("127.0.0.1/32"),), **settings)


def visitor(port: int, address: str, token: str = "") -> httpx.AsyncClient:
    """Make a client with an address of its own, as the proxy sees it."""
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        transport=httpx.AsyncHTTPTransport(local_address=address),
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )


async def steps_behind(port: int, web: Web, transport: str) -> list[Step]:
    """Follow a new session through a proxy; each step is waited for before the next."""
    session, token = await web.submit()
    steps = []
    claim = None
    async with asyncio.timeout(10):
        async for step in follow(transport, f"http://127.0.0.1:{port}", session.id, token):
            steps.append(step)
            if step.event == "created":
                claim = await web.begin(session)
            elif step.event == "processing":
                assert claim
                await web.complete(claim)
    return steps


STEPS: Final = [Step(1, "created", "created"), Step(2, "processing", "processing"), Step(3, "completed", "completed")]


@pytest.mark.parametrize("kind", ["nginx", "caddy", "haproxy"])
async def test_every_transport_passes_the_proxy_at_once(config: MakeConfig, tmp_path: Path, kind: str) -> None:
    """Each transport delivers each step while the session still waits for it."""
    async with running_web(trusting(config)) as web, running_proxy(kind, web.port, tmp_path / kind) as port:
        for transport in ("ws", "sse", "long-poll"):
            assert await steps_behind(port, web, transport) == [*STEPS, end("completed")], transport


async def test_plain_nginx_passes_all_but_sockets(config: MakeConfig, tmp_path: Path) -> None:
    """An nginx as its package installs it passes streams and polls."""
    async with running_web(trusting(config)) as web, running_nginx(web.port, tmp_path / "nginx") as nginx:
        for transport in ("sse", "long-poll"):
            assert await steps_behind(nginx.port, web, transport) == [*STEPS, end("completed")], transport


@pytest.mark.parametrize("kind", ["nginx", "caddy", "haproxy"])
@pytest.mark.usefixtures("patient_limits")
async def test_uploads_behind_the_proxy_count_by_client(
    config: MakeConfig, tmp_path: Path, photos: Path, kind: str
) -> None:
    """The second upload of one client is one too many; another client's is not."""
    settings = trusting(config, upload_rate=UploadRate(1, 60))
    photo = {"image": (photos / "photo.jpg").read_bytes()}
    async with (
        running_web(settings) as web,
        running_proxy(kind, web.port, tmp_path / kind) as port,
        visitor(port, "127.0.0.7") as one,
        visitor(port, "127.0.0.8") as other,
    ):
        forged = {"X-Forwarded-For": "203.0.113.9"}
        codes = [
            (await client.post(SESSIONS, files=photo, headers=headers)).status_code
            for client, headers in ((one, {}), (one, forged), (other, {}))
        ]
    assert codes == [201, 429, 201]


async def get(port: int, target: str, *headers: str) -> tuple[int, str]:
    """Return the status and the rest of an answer to this very target."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = (f"GET {target} HTTP/1.1", "Host: shop.example", "Connection: close", *headers)
    writer.write("\r\n".join((*lines, "", "")).encode())
    answer = (await reader.read(-1)).decode(errors="replace")
    writer.close()
    return int(answer.split(" ", 2)[1]), answer


@pytest.mark.parametrize("kind", ["nginx", "caddy", "haproxy"])
async def test_private_paths_are_denied(config: MakeConfig, tmp_path: Path, kind: str) -> None:
    """Deny every form that leads to them; pass what an orchestrator needs."""
    async with running_web(config()) as web, running_proxy(kind, web.port, tmp_path / kind) as port:
        for target in DENIED:
            status, answer = await get(port, target)
            assert status in (400, 404), target
            assert "tryon_" not in answer and '"checks"' not in answer, target
        for target in ("/", "/api/health/live", "/api/health/ready", "/api/openapi.json"):
            assert (await get(port, target))[0] == 200, target


@pytest.mark.parametrize("kind", ["nginx", "caddy", "haproxy"])
async def test_client_does_not_choose_the_host_it_came_by(config: MakeConfig, tmp_path: Path, kind: str) -> None:
    """The proxy says which host was asked for, whatever the client writes there."""
    settings = trusting(config, hosts=("shop.example",))
    async with running_web(settings) as web, running_proxy(kind, web.port, tmp_path / kind) as port:
        for forged in ("evil.example", "shop.example, evil.example"):
            assert (await get(port, "/api/tryon/limits", f"X-Forwarded-Host: {forged}"))[0] == 200, forged
