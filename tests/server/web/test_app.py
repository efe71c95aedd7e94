"""Calls from pages of other origins."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from server.web.serving.cors import ALLOWED_HEADERS, EXPOSED_HEADERS
from testkit.running import StartWeb, Web
from testkit.uploads import assert_problem, upload
from tryon.protocol.paths import SESSIONS


async def preflight(web: Web, origin: str, method: str = "POST", headers: str = "authorization") -> httpx.Response:
    return await web.client.options(
        SESSIONS,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": headers,
        },
    )


@pytest.mark.parametrize(
    "origin", ["http://localhost:5173", "https://localhost", "http://127.0.0.1:3000", "http://[::1]:1"]
)
async def test_cors_allows_localhost_on_any_port(web: Web, origin: str) -> None:
    """Until origins are configured, local pages may call and read every header."""
    answer = await preflight(web, origin, headers=", ".join(ALLOWED_HEADERS).lower())
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    assert all(header.lower() in allowed for header in ALLOWED_HEADERS)
    assert {"GET", "POST", "DELETE"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    for response in (await upload(web, Origin=origin), await web.client.get("/nothing", headers={"Origin": origin})):
        assert response.headers["Access-Control-Allow-Origin"] == origin
        exposed = {name.strip() for name in response.headers["Access-Control-Expose-Headers"].split(",")}
        assert exposed == set(EXPOSED_HEADERS)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost.evil.example", "http://localhost:1@evil.example", "null"]
)
async def test_cors_refuses_other_origins(web: Web, origin: str) -> None:
    """Look-alikes of localhost are other origins."""
    assert "Access-Control-Allow-Origin" not in (await preflight(web, origin)).headers
    answer = await web.client.get("/api/health", headers={"Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_cors_allows_configured_origins_only(start_web: StartWeb) -> None:
    """With origins configured, localhost is no longer allowed."""
    web = await start_web(origins=("https://shop.example",))
    assert (await preflight(web, "https://shop.example")).headers[
        "Access-Control-Allow-Origin"
    ] == "https://shop.example"
    assert "Access-Control-Allow-Origin" not in (await preflight(web, "http://localhost:5173")).headers


async def test_origins_of_applications_may_call_and_connect(start_web: StartWeb) -> None:
    """CORS and WebSocket follow one rule, for origins of any scheme."""
    web = await start_web(origins=("capacitor://localhost", "app://shop"))
    session, token = await web.submit()
    for origin in ("capacitor://localhost", "app://shop"):
        assert (await preflight(web, origin)).headers["Access-Control-Allow-Origin"] == origin
        async with web.follow(session.id, token, additional_headers={"Origin": origin}) as client:
            assert (await client.next())["type"] == "snapshot"
    for origin in ("capacitor://evil", "app://shop.evil", "ionic://localhost", "null"):
        assert "Access-Control-Allow-Origin" not in (await preflight(web, origin)).headers
        with pytest.raises(InvalidStatus):
            async with web.follow(session.id, token, additional_headers={"Origin": origin}):
                pass


async def test_cors_headers_stand_on_failures(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of an allowed origin can read that the server failed."""

    async def fail(self: Any, request: Any) -> Any:
        raise ValueError("a bug")

    monkeypatch.setattr("server.web.api.health.HealthEndpoints.live", fail)
    answer = await web.client.get("/api/health/live", headers={"Origin": "http://localhost:5173"})
    assert_problem(answer, 500, "internal_error")
    assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"
    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
    answer = await web.client.get("/api/health/live", headers={"Origin": "https://evil.example"})
    assert_problem(answer, 500, "internal_error")
    assert "Access-Control-Allow-Origin" not in answer.headers
