"""The handshake and the goodbye of a WebSocket."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from server.config.settings import Config
from server.domain.tokens import Signer, new_token
from testkit.fixtures import StartStack
from testkit.running import Client, StartWeb, Web, running_web, until
from testkit.values import new_session_id
from tests.server.web.transports.kit import WRONG, assert_denied, refused
from tryon.protocol.states import GoneReason

BOTH_PATHS = True


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (100, 120), (200, 30, 60)).save(buffer, "PNG")
    return buffer.getvalue()


async def test_the_bearer_subprotocol_opens_and_only_tryon_v1_is_echoed(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        assert (await client.next())["type"] == "snapshot"
        assert client.connection.subprotocol == "tryon.v1"


@pytest.mark.parametrize("header", ["Authorization", "X-Client-Token"])
async def test_a_token_in_a_header_opens(web: Web, header: str) -> None:
    session, token = await web.submit()
    value = f"Bearer {token}" if header == "Authorization" else token
    async with web.follow(session.id, additional_headers={header: value}) as client:
        assert (await client.next())["type"] == "snapshot"
        assert client.connection.subprotocol is None


async def test_the_link_of_the_session_opens_as_it_is(web: Web) -> None:
    session, token = await web.submit()
    answer = await web.client.get(f"/api/tryon/sessions/{session.id}", headers={"X-Client-Token": token})
    link = answer.json()["links"]["ws"]
    assert token not in link
    async with web.follow(session.id, query=link.partition("/ws")[2]) as client:
        view = (await client.next())["session"]
        assert view["session_id"] == session.id
        assert "ticket" not in view["links"]["ws"] + view["links"]["events"], "a ticket begets no ticket"


@pytest.mark.parametrize("how", ["wrong", "none", "another session's owner", "unknown id", "no id at all"])
async def test_whatever_is_wrong_with_id_or_owner_looks_the_same(web: Web, how: str) -> None:
    session, token = await web.submit()
    _, another = await web.submit()
    client = await refused(
        web,
        {"unknown id": new_session_id(), "no id at all": "garbage"}.get(how, session.id),
        {"wrong": WRONG, "none": None, "another session's owner": another}.get(how, token),
    )
    assert client.frames == [
        {"type": "error", "code": "not_found", "message": "There is nothing here, or it is not yours."},
        {"type": "bye", "code": 4504, "reason": "not_found", "reconnect": False, "retry_after_ms": None},
    ]


@pytest.mark.parametrize("token", ["short", "x" * 129, "x" * 22 + "!"])
async def test_a_malformed_token_is_4501(web: Web, token: str) -> None:
    session, _ = await web.submit()
    client = await refused(web, session.id, additional_headers={"Authorization": f"Bearer {token}"})
    assert (client.frames[0]["code"], client.connection.close_code) == ("invalid_token", 4501)


@pytest.mark.parametrize("how", ["expired", "forged", "of another session", "by another key", "garbage"])
async def test_a_ticket_that_is_not_good_is_4501(web: Web, how: str) -> None:
    session, _ = await web.submit()
    now = int(web.database.clock.now())
    signer = web.services.signer
    ticket = {
        "expired": signer.ticket(session.id, expires=now - 1),
        "forged": signer.ticket(session.id, expires=now + 60)[:-4] + "AAAA",
        "of another session": signer.ticket(new_session_id(), expires=now + 60),
        "by another key": Signer(["another-key-" * 4]).ticket(session.id, expires=now + 60),
        "garbage": "a.b.c.d",
    }[how]
    client = await refused(web, session.id, query=f"?ticket={ticket}")
    assert (client.frames[0]["code"], client.connection.close_code) == ("invalid_ticket", 4501)


async def test_an_open_socket_outlives_its_ticket(start_web: StartWeb) -> None:
    web = await start_web(ticket_seconds=1)
    session, _ = await web.submit()
    expires = int(web.database.clock.now()) + 1
    ticket = web.services.signer.ticket(session.id, expires=expires)
    async with web.follow(session.id, query=f"?ticket={ticket}") as client:
        await client.next("snapshot")
        await until(lambda: web.database.clock.now() > expires)
        await web.complete(await web.begin(session))
        assert await client.rest() == 1000
        assert client.story() == [1, 2, 3]


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example", "null", "http://[", ""])
async def test_a_foreign_origin_is_refused_before_the_handshake(web: Web, origin: str) -> None:
    session, token = await web.submit()
    with pytest.raises(InvalidStatus) as refusal:
        async with web.follow(session.id, token, additional_headers={"Origin": origin}):
            pass
    assert_denied(refusal.value, 403, "bad_request")


@pytest.mark.parametrize("path", ["/ws", "/api/tryon/sessions", "/api/tryon/sessions/x/y/ws"])
async def test_a_socket_where_there_is_none_is_404(web: Web, path: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(f"ws://127.0.0.1:{web.port}{path}", proxy=None):
            pass
    assert_denied(refusal.value, 404, "not_found")


async def test_a_failure_before_the_handshake_is_500(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> bool:
        raise ValueError("a bug")

    monkeypatch.setattr("server.web.transports.websocket.origin_allowed", fail)
    with pytest.raises(InvalidStatus) as refusal:
        async with web.follow(new_session_id()):
            pass
    assert_denied(refusal.value, 500, "internal_error")


async def test_a_handshake_has_its_request_id(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token, additional_headers={"X-Request-ID": "mine-1"}) as client:
        assert client.connection.response is not None
        assert client.connection.response.headers["X-Request-ID"] == "mine-1"


class Plain(WebSocketsSansIOProtocol):
    """A server that offers no ASGI extension at all; they are optional."""

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        del self.scope["extensions"]


async def test_a_server_without_extensions_will_do(config: Callable[..., Config]) -> None:
    async with running_web(config(), ws=Plain) as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            assert (await client.next())["type"] == "snapshot"
        with pytest.raises(InvalidStatus) as refusal:
            async with web.follow(session.id, token, additional_headers={"Origin": "https://evil.example"}):
                pass
        assert refusal.value.response.status_code == 403


async def test_localhost_the_same_origin_and_no_origin_may_connect(web: Web) -> None:
    session, token = await web.submit()
    for origin in (
        "http://localhost:5173",
        "https://localhost",
        "http://[::1]:3000",
        f"http://127.0.0.1:{web.port}",
        None,
    ):
        headers = {} if origin is None else {"Origin": origin}
        async with web.follow(session.id, token, additional_headers=headers) as client:
            assert (await client.next())["type"] == "snapshot"


async def test_configured_origins_replace_the_localhost_rule(start_web: StartWeb) -> None:
    web = await start_web(origins=("https://shop.example",))
    session, token = await web.submit()
    for origin in ("https://shop.example", f"http://127.0.0.1:{web.port}"):
        async with web.follow(session.id, token, additional_headers={"Origin": origin}) as client:
            assert (await client.next())["type"] == "snapshot"
    with pytest.raises(InvalidStatus):
        async with web.follow(session.id, token, additional_headers={"Origin": "http://localhost:5173"}):
            pass


@pytest.mark.parametrize("reason", GoneReason)
async def test_an_erasure_is_told_with_its_reason(web: Web, reason: GoneReason) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        row = await web.database.reading.get(session.id)
        assert row is not None
        await web.services.sessions.erasure.erase(row, reason)
        assert await client.rest() == 4510
        assert client.frames[-1] == {
            "type": "bye",
            "code": 4510,
            "reason": reason,
            "reconnect": False,
            "retry_after_ms": None,
        }
    assert (await refused(web, session.id, token)).connection.close_code == 4504


async def test_a_stopping_server_tells_every_socket_when_to_come_back(
    stack: StartStack, redis_url: str, config: Callable[..., Config]
) -> None:
    settings = config()
    env: dict[str, Any] = {
        "TRYON_REDIS_URL": redis_url,
        "TRYON_DATABASE_URL": settings.database,
        "TRYON_SECRET_KEY": settings.secret_keys[0],
        "TRYON_LOG_FORMAT": "text",
    }
    process = await stack("serve", ready=False, **env)
    port = int((await process.line(r"Listening on http://127\.0\.0\.1:(\d+)"))[1])
    token = new_token()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        answer = await http.post(
            "/api/tryon/sessions",
            files={"image": ("photo.png", png(), "image/png")},
            headers={"X-Client-Token": token},
        )
        session_id = answer.json()["session_id"]
    url = f"ws://127.0.0.1:{port}/api/tryon/sessions/{session_id}/ws"
    async with contextlib.AsyncExitStack() as connections:
        clients = []
        for _ in range(10):
            headers = {"X-Client-Token": token}
            clients.append(
                Client(await connections.enter_async_context(connect(url, additional_headers=headers, proxy=None)))
            )
        for client in clients:
            await client.next("snapshot")
        process.process.terminate()
        for client in clients:
            assert await client.rest(5) == 4000
            bye = client.frames[-1]
            assert (bye["code"], bye["reason"], bye["reconnect"]) == (4000, "draining", True)
            assert 1500 <= bye["retry_after_ms"] <= 2500
        assert len({client.frames[-1]["retry_after_ms"] for client in clients}) > 1, "not all at once"
    assert await process.wait(6) in (0, -15)
