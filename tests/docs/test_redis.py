"""docs/redis.md: the least rights are enough for the whole product, and needed."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.adapters.redis.rights import Role, needed
from server.config.settings import Config, ConfigError
from server.domain.tokens import new_token
from server.startup import check_start
from testkit.certificates import Authority
from testkit.cluster import Cluster, running_cluster
from testkit.fixtures import PATIENT_SECONDS, StartValkey
from testkit.following import end, follow
from testkit.processes import ROOT
from testkit.running import until
from testkit.tls_redis import TlsRedis
from testkit.uploads import picture
from testkit.valkey_cluster import ValkeyCluster
from tests.server.adapters.redis.listening import Listener, publisher
from tryon.protocol.paths import SESSIONS

PAGE = (ROOT / "docs/redis.md").read_text()

LINES = {role: re.findall(rf"^ACL SETUSER tryon-{role.value} (.*)$", PAGE, re.MULTILINE)[0].split() for role in Role}

OF_CONNECTIONS = {"ping", "role", "select", "client|setname", "client|setinfo", "multi", "exec", "discard"}
OF_CLUSTERS = {"spublish", "ssubscribe", "sunsubscribe", "cluster|slots", "asking"}
OPTIONAL = {"info", "bgrewriteaof"}


def granted(role: Role) -> set[str]:
    return {word.removeprefix("+") for word in LINES[role] if word.startswith("+")}


@pytest.mark.parametrize("role", Role)
def test_page_grants_no_right_that_is_not_asked_for(role: Role) -> None:
    """The start asks for each; others are of connections, clusters, or optional."""
    asked = {
        "|".join(command[:2]) if command[0] == "SCRIPT" else command[0]
        for queue in (None, "tryon:queue")
        for command in needed("tryon:", queue, role)
    }
    more = {each.lower() for each in asked} ^ granted(role)
    assert more <= OF_CONNECTIONS | OF_CLUSTERS | OPTIONAL


@pytest.fixture
async def guarded() -> AsyncIterator[Cluster]:
    """Run servers with the users of the page, and no process of the product yet."""
    settings: dict[str, Any] = {
        "processor": "mock",
        "mock_failure_rate": 0,
        "mock_seconds": 5,
        "upload_rate": "10/minute",
    }
    async with running_cluster(webs=0, workers=0, valkey_options=("--appendonly", "yes"), **settings) as cluster:
        for role in Role:
            rules = [f">{role.value}" if rule.startswith(">") else rule for rule in LINES[role]]
            await cluster.valkey.command("ACL", "SETUSER", f"tryon-{role.value}", *rules)
        yield cluster


def url_for(cluster: Cluster, role: Role) -> str:
    return cluster.valkey.tcp_url.replace("redis://", f"redis://tryon-{role.value}:{role.value}@")


async def refusals(cluster: Cluster) -> list[Any]:
    """Return what Redis has refused to a user of the product."""
    return [entry for entry in await cluster.valkey.command("ACL", "LOG") if b"default" not in str(entry).encode()]


class Person:
    """A client with a token of its own, at one server."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url
        self.token = new_token()
        self._http = http

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return await self._http.request(method, f"{self.url}{path}", headers=headers, **options)

    async def upload(self) -> str:
        answer = await self.call("POST", SESSIONS, files={"image": picture()})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["session_id"])

    async def sees(self, session_id: str, status: str) -> None:
        """Follow the session to its end, by a WebSocket."""
        async with asyncio.timeout(60):
            steps = [step async for step in follow("ws", self.url, session_id, self.token)]
        assert steps[-1] == end(status)


async def test_rights_of_page_are_enough(guarded: Cluster) -> None:
    """Upload to the end, cancel, and erase under these users; Redis refuses nothing."""
    web = guarded.make_web(redis_url=url_for(guarded, Role.WEB), start_check="yes")
    await guarded.start_web(web)
    await guarded.make_worker(redis_url=url_for(guarded, Role.WORKER), start_check="yes").start()
    await guarded.workers_seen(1)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        person = Person(guarded.url, http)
        cancelled = await person.upload()
        assert (await person.call("POST", f"{SESSIONS}/{cancelled}/cancel")).status_code in (200, 202)
        await person.sees(cancelled, "cancelled")
        done, erased = await person.upload(), await person.upload()
        await person.sees(done, "completed")
        for session_id in (erased, done, cancelled):
            assert (await person.call("DELETE", f"{SESSIONS}/{session_id}")).status_code == 200
        async with asyncio.timeout(60):  # the file is rewritten without the erased ids
            while any(_names(guarded, session_id) for session_id in (done, cancelled, erased)):
                await guarded.valkey.command("DEL", "tryon:rewritten")  # the time between two rewrites
                await asyncio.sleep(0.1)
        health = (await person.call("GET", "/api/health")).json()["checks"]
        assert (health["redis"]["status"], health["workers"]["status"]) == ("ok", "ok")
    assert await refusals(guarded) == []


def _names(cluster: Cluster, session_id: str) -> bool:
    found = False
    for path in (cluster.valkey.folder / "appendonlydir").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a rewrite replaces files meanwhile
            found |= session_id.encode() in path.read_bytes()
    return found


@pytest.mark.parametrize("role", Role)
async def test_missing_right_ends_the_start(guarded: Cluster, role: Role) -> None:
    """Each right that is taken away is named; the optional ones may be missing."""
    config = Config.load(guarded.environ | {"TRYON_REDIS_URL": url_for(guarded, role)}, env_file=None)
    user = f"tryon-{role.value}"
    await check_start(config, role)
    for right in sorted(granted(role) - OF_CONNECTIONS - OF_CLUSTERS - OPTIONAL):
        await guarded.valkey.command("ACL", "SETUSER", user, f"-{right}")
        with pytest.raises(ConfigError) as refused:
            await check_start(config, role)
        line = str(refused.value)
        assert line.startswith("TRYON_REDIS_URL: a right is missing, docs/redis.md has them all: ")
        assert f"'{right}'" in line and "\n" not in line
        await guarded.valkey.command("ACL", "SETUSER", user, f"+{right}")
    for pattern, denied in (("resetkeys", "key"), ("resetchannels", "channel")):
        await guarded.valkey.command("ACL", "SETUSER", user, pattern)
        with pytest.raises(ConfigError, match=f"a right is missing.*{denied}"):
            await check_start(config, role)
        await guarded.valkey.command("ACL", "SETUSER", user, "~tryon:*", "~arq:*", "&tryon:*")
    await guarded.valkey.command("ACL", "SETUSER", user, *(f"-{right}" for right in OPTIONAL - {"info"}))
    await check_start(config, role)


class SecureCluster:
    """A cluster behind TLS with the users of the page; ``url`` is the web user's."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        certificate, key = authority.issue("client")
        self.servers = ValkeyCluster(
            make_node=lambda options: TlsRedis(authority, "127.0.0.1", options=(*options, "--tls-cluster", "yes"))
        )
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.servers.nodes)
        words = f"ssl_ca_certs={authority.ca}&ssl_certfile={certificate}&ssl_keyfile={key}"
        self.url = f"rediss+cluster://tryon-web:web@{hosts}?{words}"

    async def start(self) -> None:
        await self.servers.start()
        for node in self.servers.nodes:
            rules = [">web" if rule.startswith(">") else rule for rule in LINES[Role.WEB]]
            rules.remove("+client|setinfo")  # Debian's is older than 7.2
            await node.command("ACL", "SETUSER", "tryon-web", *rules)


@pytest.fixture
async def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SecureCluster]:
    for bound in ("cluster.NODE_SECONDS", "topology.ASK_SECONDS", "connect.CALL_SECONDS", "bus.PUBLISH_SECONDS"):
        monkeypatch.setattr(f"server.adapters.redis.{bound}", PATIENT_SECONDS)
    cluster = SecureCluster(tmp_path / "tls")
    with contextlib.closing(cluster.servers):
        await cluster.start()
        yield cluster


async def test_rights_of_page_are_enough_in_a_cluster_behind_tls(secure: SecureCluster) -> None:
    """Publish and hear through every master, and erase; no node refuses anything."""
    sessions = [f"0199a1b2-0000-7000-8000-{n:012d}" for n in range(12)]
    async with publisher(secure.url) as bus, Listener(secure.url) as listener:
        await asyncio.gather(*(listener.subscriber.subscribe(bus.channel(each).encode()) for each in sessions))
        for session in sessions:
            assert await bus.publish(session, b"news")
        await until(lambda: len(listener.messages) == len(sessions))
        await bus.forget(sessions)
    for node in secure.servers.nodes:
        assert await node.command("ACL", "LOG") == []


async def test_right_missing_at_one_master_ends_the_start(
    secure: SecureCluster, config: Callable[..., Config], start_valkey: StartValkey
) -> None:
    """Each node has users of its own: the start asks all, and names the one."""
    settings = config(redis_url=secure.url, queue_redis_url=start_valkey(tcp=True).tcp_url)
    await check_start(settings, Role.WEB)
    node = secure.servers.nodes[-1]
    for right in ("spublish", "ssubscribe", "sunsubscribe", "asking", "zadd"):
        await node.command("ACL", "SETUSER", "tryon-web", f"-{right}")
        with pytest.raises(ConfigError) as refused:
            await check_start(settings, Role.WEB)
        line = str(refused.value)
        assert line.startswith("TRYON_REDIS_URL: a right is missing, docs/redis.md has them all: ")
        assert f"'{right}'" in line and line.endswith(f" at 127.0.0.1:{node.port}")
        await node.command("ACL", "SETUSER", "tryon-web", f"+{right}")
    await node.command("ACL", "SETUSER", "tryon-web", "resetpass", ">another")
    with pytest.raises(ConfigError, match="invalid username-password pair"):
        await check_start(settings, Role.WEB)
