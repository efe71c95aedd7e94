"""Who may read `/metrics` and `/api/health`."""

from __future__ import annotations

import httpx
import pytest

from server.config.settings import Config
from server.web.api.private_paths import PrivatePaths, from_this_machine
from testkit.running import StartWeb, Web
from testkit.uploads import assert_problem

TOKEN = "monitoring-monitoring-monitoring"
PRIVATE = ("/metrics", "/api/health")
OPEN = ("/api/health/live", "/api/health/ready")


async def statuses(web: Web, *paths: str, **headers: str) -> set[int]:
    """Return the statuses of these paths."""
    return {(await web.client.get(path, headers=headers)).status_code for path in paths}


def scope(client: str, *headers: str, server: str = "192.0.2.7") -> dict[str, object]:
    """Return the part of a request that says where it comes from."""
    return {"client": (client, 1), "server": (server, 8000), "headers": [(name.encode(), b"x") for name in headers]}


def test_private_paths_are_open_on_loopback_alone() -> None:
    """Without the setting: open where nobody else can connect, else loopback only."""
    assert repr(PrivatePaths(Config(host="127.0.0.1"))) == "<PrivatePaths open>"
    assert repr(PrivatePaths(Config(host="::1"))) == "<PrivatePaths open>"
    assert repr(PrivatePaths(Config(host="0.0.0.0"))) == "<PrivatePaths loopback>"
    assert TOKEN not in repr(PrivatePaths(Config(private_paths=TOKEN)))


@pytest.mark.parametrize("header", ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"])
def test_forwarded_request_is_not_of_this_machine(header: str) -> None:
    """A proxy on loopback speaks for clients anywhere."""
    assert from_this_machine(scope("127.0.0.1"))
    assert not from_this_machine(scope("127.0.0.1", "host", header))


@pytest.mark.parametrize(
    ("client", "own"),
    [("127.8.9.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("192.0.2.7", True), ("192.0.2.8", False)],
)
def test_peer_of_this_machine_is_known_by_its_address(client: str, own: bool) -> None:
    """Loopback in each of its forms, or the very address that it connected to."""
    assert from_this_machine(scope(client)) is own


def test_socket_without_an_address_is_not_of_this_machine() -> None:
    """Only a proxy connects over a Unix socket."""
    assert not from_this_machine({"client": None, "server": ("/run/tryon", None), "headers": []})


async def test_loopback_paths_are_404_through_a_proxy(start_web: StartWeb) -> None:
    """A program of this machine reads them; liveness and readiness stay open to all."""
    web = await start_web(private_paths="loopback")
    assert await statuses(web, *PRIVATE) == {200}
    assert await statuses(web, *OPEN, **{"X-Forwarded-For": "192.0.2.1"}) == {200}
    for path in PRIVATE:
        assert_problem(await web.client.get(path, headers={"Forwarded": "for=192.0.2.1"}), 404, "not_found")
        assert_problem(await web.client.get(path, headers={"X-Forwarded-For": "127.0.0.1"}), 404, "not_found")


async def test_token_opens_private_paths(start_web: StartWeb) -> None:
    """Also through a proxy; any other token is 401, as none is."""
    web = await start_web(private_paths=TOKEN)
    assert await statuses(web, *PRIVATE, Authorization=f"Bearer {TOKEN}") == {200}
    assert await statuses(web, *PRIVATE, Authorization=f"bearer {TOKEN}", Forwarded="for=192.0.2.1") == {200}
    assert await statuses(web, *OPEN) == {200}
    for given in (
        {},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer \xfc"},
    ):
        for path in PRIVATE:
            headers = httpx.Headers(given, encoding="latin-1")
            assert_problem(await web.client.get(path, headers=headers), 401, "token_required")


@pytest.mark.parametrize(
    "form", ["/metrics%0a", "/api/health%0a", "/metrics/", "//metrics", "/api//health", "/Metrics"]
)
async def test_other_forms_of_private_paths_open_nothing(start_web: StartWeb, form: str) -> None:
    """No other spelling of a path leads past the check."""
    web = await start_web(private_paths=TOKEN)
    answer = await web.client.get(f"http://127.0.0.1:{web.port}{form}")
    assert answer.status_code in (400, 401, 404)
    assert "tryon_" not in answer.text
