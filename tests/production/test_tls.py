"""Each proxy with the lines for TLS that its file shows: HTTP/2, and WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.async_api import Browser
from websockets.asyncio.client import connect

from server.domain.tokens import new_token
from testkit.balancers import KINDS, Balancer
from testkit.certificates import Authority
from testkit.cluster import Cluster, running_cluster
from testkit.photos import small
from testkit.plugin import missing
from testkit.profiles import FAULTS
from tests.browser.visitor import open_visitor
from tests.docs.test_proxies import DENIED
from tryon.protocol.paths import SESSIONS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("chromium")]

SETTINGS: Final[dict[str, Any]] = FAULTS | {"mock_seconds": 0.5, "upload_rate": "off"}


@dataclass(frozen=True)
class Secured:
    """A proxy that speaks TLS, and its authority."""

    proxy: Balancer
    ca: Path
    folder: Path

    @property
    def url(self) -> str:
        return self.proxy.url

    async def curl(self, path: str, *options: str) -> tuple[str, str]:
        """Ask over HTTP/2; return version with status, and the body."""
        program = shutil.which("curl")
        if program is None:
            missing("curl (Debian: apt-get install curl)")
        body = self.folder / "body"
        body.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            program, "--http2", "--silent", "--cacert", self.ca, "--path-as-is", "--max-time", "60",
            "--write-out", "%{http_version} %{http_code}", "--output", body, *options, self.url + path,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert process.returncode == 0, f"curl ended with {process.returncode}"
        return out.decode(), body.read_text() if body.exists() else ""

    async def upload(self, token: str) -> dict[str, Any]:
        photo = self.folder / "photo.jpg"
        photo.write_bytes(small())
        version, text = await self.curl(
            SESSIONS, "--header", f"Authorization: Bearer {token}", "--form", f"image=@{photo}"
        )
        assert version == "2 201", (version, text)
        made: dict[str, Any] = json.loads(text)
        return made


@pytest.fixture(scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    """Start two web processes and a worker for all proxies."""
    async with running_cluster(webs=2, balancer="nginx", **SETTINGS) as cluster:
        yield cluster


@pytest.fixture(params=KINDS)
async def secured(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> AsyncIterator[Secured]:
    """Start a proxy with a certificate in front of the web processes."""
    authority = Authority(tmp_path / "certificates")
    certificate = authority.issue("shop", "127.0.0.1")
    proxy = Balancer(request.param, cluster.nodes, tmp_path / "proxy", certificate=certificate)
    await proxy.start()
    try:
        yield Secured(proxy, authority.ca, tmp_path)
    finally:
        await proxy.close()


async def test_http2_clients_are_served(secured: Secured) -> None:
    """Upload, stream of events to the end, poll, and refusals."""
    token = new_token()
    made = await secured.upload(token)
    path, header = f"{SESSIONS}/{made['session_id']}", f"Authorization: Bearer {token}"
    version, stream = await secured.curl(f"{path}/events", "--header", header, "--no-buffer")
    assert version == "2 200"
    frames = [json.loads(line[5:]) for line in stream.splitlines() if line.startswith("data:")]
    assert [frame["type"] for frame in frames][:1] == ["snapshot"]
    assert frames[-1]["type"] == "bye"
    assert any(frame.get("status") == "completed" for frame in frames), frames
    version, text = await secured.curl(f"{path}?wait=1", "--header", header)
    assert (version, json.loads(text)["status"]) == ("2 200", "completed")
    for target in DENIED:
        version, text = await secured.curl(target)
        assert version in ("2 404", "2 400"), target
        assert "tryon_" not in text and '"checks"' not in text, target


@pytest.mark.parametrize("version", ["2", "1.1"])
@pytest.mark.parametrize(("size", "refusal"), [(30 * 2**20, "body_too_large"), (20 * 2**20, "unsupported_image")])
async def test_refusal_of_an_upload_arrives_whole(secured: Secured, version: str, size: int, refusal: str) -> None:
    """However early it is refused, its client reads why, and the next is served."""
    large, token = secured.folder / "large", new_token()
    with large.open("wb") as file:
        file.truncate(size)
    for _ in range(8):
        status, text = await secured.curl(
            SESSIONS, f"--http{version}", "--header", f"Authorization: Bearer {token}", "--form", f"image=@{large}"
        )
        assert (status, json.loads(text)["code"]) == (f"{version} {413 if 'large' in refusal else 415}", refusal)
        await secured.upload(token)


async def test_websocket_over_tls_brings_every_frame(secured: Secured) -> None:
    """A socket on a connection of its own, to the last frame."""
    token = new_token()
    made = await secured.upload(token)
    trusted = ssl.create_default_context(cafile=str(secured.ca))
    address = f"{secured.url.replace('https', 'wss')}{SESSIONS}/{made['session_id']}/ws?since=0"
    frames = []
    async with (
        asyncio.timeout(60),
        connect(address, ssl=trusted, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None) as socket,
    ):
        with contextlib.suppress(StopAsyncIteration):
            async for text in socket:
                frames.append(json.loads(text))
    assert frames[0]["type"] == "snapshot"
    assert frames[-1]["type"] == "bye"
    events = frames[0]["missed"] + [frame for frame in frames if frame["type"] == "event"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["event"] == "completed"
    assert socket.close_code == 1000


async def test_page_is_live_over_http2(secured: Secured, chromium: Browser, photos: Path) -> None:
    """The page loads over HTTP/2, and its socket brings the result."""
    async for visitor in open_visitor(chromium, secured.url, photos, ignore_https_errors=True):
        await visitor.arrive()
        protocol = await visitor.page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol")
        assert protocol == "h2"
        async with visitor.page.expect_websocket() as opened:
            await visitor.try_on()
        assert (await opened.value).url.startswith("wss://")
        await visitor.sees_result()
