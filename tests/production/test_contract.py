"""The contract holds in the production form, behind each of the proxies of deploy/.

Two web processes on PostgreSQL and Valkey; the test plays the worker. The stories of
both clients and the model of the API are those that the server of the test's process
lives through, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest

from server.config.settings import Config
from server.domain.tokens import new_token
from testkit.balancers import KINDS
from testkit.cluster import Cluster
from testkit.plugin import missing
from testkit.production import running_production
from testkit.profiles import FAULTS
from testkit.proxy import running_proxy
from testkit.running import Web
from tests.clients.drivers import Driver, JavaScriptDriver, Node, PythonDriver, one_node
from tests.clients.stories import STORIES, Scene
from tests.docs.test_proxies import DENIED, get, visitor
from tests.hostile.test_api_model import explore
from tryon.protocol.paths import SESSIONS

pytestmark = pytest.mark.slow

DRIVERS: Final = {"nginx": "python", "haproxy": "javascript", "caddy": "python"}
"""Client that plays the stories behind each proxy."""

NAMES: Final = tuple(
    name
    for name, story in STORIES.items()
    if (not story.settings and not {"poll", "long-poll"} & set(story.given[:1])) or name.endswith("once-long-poll")
)
"""Stories that need no settings of their own.

Of the two ways to poll one goes through the proxy; the other is nothing but GETs.
"""

SPOOFED: Final[dict[str, str]] = {
    "X-Forwarded-For": "203.0.113.9, 127.0.0.1",
    "X-Real-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9;host=evil.example;proto=https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Client-IP": "203.0.113.9",
}


@dataclass(frozen=True)
class Form:
    """The production form, and the use cases with which the test plays the worker."""

    cluster: Cluster
    web: Web

    @property
    def kind(self) -> str:
        assert self.cluster.balancer is not None
        return self.cluster.balancer.kind

    async def followed(self, id: str) -> None:
        """Wait until a web process follows this session."""
        channel = self.web.services.bus.channel(id)
        async with asyncio.timeout(30):
            while not (await self.cluster.valkey.command("PUBSUB", "NUMSUB", channel))[1]:
                await asyncio.sleep(0.01)

    async def restart(self) -> None:
        """Restart each web process in its turn."""
        for web in self.cluster.webs:
            await web.terminate(60)
            await self.cluster.start_web(web)

    async def logged(self, request_id: str) -> str:
        """Return the line in which a web process logged this request's arrival."""
        async with asyncio.timeout(10):
            while True:
                lines = [line for web in self.cluster.webs for line in web.log.read_text().splitlines()]
                if found := [line for line in lines if request_id in line and "Client: " in line]:
                    return found[0]
                await asyncio.sleep(0.02)


@pytest.fixture(
    scope="module", params=[pytest.param(kind, marks=pytest.mark.xdist_group(f"production {kind}")) for kind in KINDS]
)
async def form(request: pytest.FixtureRequest) -> AsyncIterator[Form]:
    """Run the production form without workers behind one proxy."""
    settings: dict[str, Any] = FAULTS | {"lease_seconds": 600, "deadline_seconds": 3600, "workers": 0}
    async with contextlib.AsyncExitStack() as stack:
        try:
            cluster = await stack.enter_async_context(running_production(request.param, **settings))
        except ImportError as error:
            missing(str(error))
        services = await stack.enter_async_context(cluster.services())
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=cluster.url, trust_env=False, timeout=30))
        config = Config.load(cluster.environ, env_file=None)
        not_here: Any = None  # parts of a web process, which runs elsewhere
        yield Form(cluster, Web(config, cluster.port, client, services, not_here, not_here))


@pytest.fixture(scope="module")
async def nodes() -> AsyncIterator[Callable[[], Awaitable[Node]]]:
    """Start one Node for all stories of this process, when the first one asks."""
    async with one_node() as node:
        yield node


@pytest.mark.parametrize("name", NAMES)
async def test_client_lives_through_the_story_in_production(
    form: Form, name: str, nodes: Callable[[], Awaitable[Node]]
) -> None:
    """Play the story as with a single server; it ends the same."""
    chosen = STORIES[name]
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(running_proxy(form.cluster.port))
        node = await nodes() if DRIVERS[form.kind] == "javascript" else None
        base = f"http://127.0.0.1:{proxy.port}"

        def make_client(token: str | None) -> Driver:
            token = token or new_token()
            client: Driver = PythonDriver(base, token) if node is None else JavaScriptDriver(node, base, token)
            stack.push_async_callback(client.close)
            return client

        scene = Scene(form.web, proxy, make_client(None), make_client, form.restart, form.followed)
        await chosen.play(scene, *chosen.given)


async def test_api_follows_its_model_in_production(form: Form) -> None:
    """Statuses, visibility, histories and pushes are those of the model."""
    await asyncio.to_thread(explore, form.web, asyncio.get_running_loop(), 2, 20)


async def test_private_paths_are_hidden_in_production(form: Form) -> None:
    """Deny every form that leads to them; pass what an orchestrator needs."""
    for target in DENIED:
        status, answer = await get(form.cluster.port, target)
        assert status in (400, 404), target
        assert "tryon_" not in answer and '"checks"' not in answer, target
    for target in ("/", "/api/health/live", "/api/health/ready", "/api/openapi.json"):
        assert (await get(form.cluster.port, target))[0] == 200, target


async def test_address_of_client_cannot_be_forged(form: Form) -> None:
    """The product sees the peer of the proxy, whatever the client writes."""
    async with visitor(form.cluster.port, "127.0.0.9") as client:
        for headers in ({}, SPOOFED, *({name: value} for name, value in SPOOFED.items())):
            request_id = secrets.token_hex(8)
            answer = await client.get("/api/tryon/limits", headers={"X-Request-ID": request_id} | headers)
            assert answer.status_code == 200, (headers, answer.text)
            assert "Client: 127.0.0.9" in await form.logged(request_id), headers


async def test_foreign_origin_cannot_be_made_own(form: Form) -> None:
    """A forwarded host that the client wrote does not make an origin the service's."""
    forged = {"Origin": "https://evil.example"} | SPOOFED
    session, token = await form.web.submit()
    handshake = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Authorization": f"Bearer {token}",
    }  # fmt: skip
    answer = await form.web.client.get(f"{SESSIONS}/{session.id}/ws", headers=handshake | forged)
    assert answer.status_code == 403


async def test_no_client_is_bound_to_a_process(form: Form) -> None:
    """Connections of one client are shared out, and each process serves its session."""
    session, token = await form.web.submit()
    ids = [secrets.token_hex(8) for _ in range(12)]
    for request_id in ids:
        async with httpx.AsyncClient(base_url=form.cluster.url, trust_env=False) as client:
            headers = {"X-Request-ID": request_id, "Authorization": f"Bearer {token}"}
            assert (await client.get(f"{SESSIONS}/{session.id}", headers=headers)).status_code == 200
        await form.logged(request_id)
    served = [sum(request_id in web.log.read_text() for request_id in ids) for web in form.cluster.webs]
    assert all(served), served


async def test_upload_above_the_limit_is_refused_in_words(form: Form) -> None:
    """The proxy and the product refuse with the same problem."""
    token = new_token()
    for size in (30 * 2**20, 23 * 2**20 + 2**19):
        answer = await form.web.client.post(
            SESSIONS, headers={"Authorization": f"Bearer {token}"}, files={"image": bytes(size)}
        )
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large"), size


MALFORMED: Final = b"Transfer-Encoding: chunked\r\n\r\n5\r\n--x\r\n\r\nzz\r\n"
"""A body whose second chunk has no size."""


async def test_malformed_uploads_hold_up_no_other_client(form: Form) -> None:
    """A proxy does not take them for failures of the processes."""
    head = f"POST {SESSIONS} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    for _ in range(6):
        reader, writer = await asyncio.open_connection("127.0.0.1", form.cluster.port)
        writer.write(head.encode() + MALFORMED)
        async with asyncio.timeout(30):
            assert (await reader.readline()).split()[1] in (b"400", b"503")
        writer.close()
        assert (await form.web.client.get("/api/tryon/limits")).status_code == 200
        assert form.cluster.balancer is not None
        assert await form.cluster.balancer.failures() == 0


async def test_outage_of_all_processes_is_told_with_time_to_return(form: Form) -> None:
    """The proxy's own words are the product's, and event streams come back."""
    session, token = await form.web.submit()
    path, headers = f"{SESSIONS}/{session.id}", {"Authorization": f"Bearer {token}"}
    await asyncio.gather(*(web.terminate(60) for web in form.cluster.webs))
    try:
        polled = await form.web.client.get(path, headers=headers)
        streamed = await form.web.client.get(f"{path}/events", headers=headers)
    finally:
        for web in form.cluster.webs:
            await form.cluster.start_web(web)
    assert (polled.status_code, polled.json()["code"], polled.json()["retryable"]) == (503, "unavailable", True)
    assert polled.headers["Content-Type"] == "application/problem+json"
    assert int(polled.headers["Retry-After"]) > 0
    assert (streamed.status_code, streamed.headers["Content-Type"]) == (200, "text/event-stream")
    assert streamed.text == "retry: 2000\n\n"
    async with asyncio.timeout(30):  # a proxy may leave a process out for a moment after its return
        while (await form.web.client.get(path, headers=headers)).status_code != 200:
            await asyncio.sleep(0.05)
