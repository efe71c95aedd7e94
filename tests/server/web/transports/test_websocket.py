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
from testkit.clocks import ManualClock
from testkit.fixtures import StartStack
from testkit.running import Client, StartWeb, Web, running_web
from testkit.values import new_session_id
from tests.server.web.transports.kit import WRONG, assert_denied, refused
from tryon.protocol.states import GoneReason

BOTH_PATHS = True


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (100, 120), (200, 30, 60)).save(buffer, "PNG")
    return buffer.getvalue()


async def test_bearer_subprotocol_opens_a_socket(web: Web) -> None:
    """Only ``tryon.v1`` is echoed, never the token."""
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        assert (await client.next())["type"] == "snapshot"
        assert client.connection.subprotocol == "tryon.v1"


@pytest.mark.parametrize("header", ["Authorization", "X-Client-Token"])
async def test_token_in_a_header_opens_a_socket(web: Web, header: str) -> None:
    """Either header works, and no subprotocol is needed."""
    session, token = await web.submit()
    value = f"Bearer {token}" if header == "Authorization" else token
    async with web.follow(session.id, additional_headers={header: value}) as client:
        assert (await client.next())["type"] == "snapshot"
        assert client.connection.subprotocol is None


async def test_link_of_the_session_opens_a_socket(web: Web) -> None:
    """A ticket opens it, and begets no ticket."""
    session, token = await web.submit()
    answer = await web.client.get(f"/api/tryon/sessions/{session.id}", headers={"X-Client-Token": token})
    link = answer.json()["links"]["ws"]
    assert token not in link
    async with web.follow(session.id, query=link.partition("/ws")[2]) as client:
        view = (await client.next())["session"]
        assert view["session_id"] == session.id
        assert "ticket" not in view["links"]["ws"] + view["links"]["events"], "a ticket begets no ticket"


@pytest.mark.parametrize("how", ["wrong", "none", "another session's owner", "unknown id", "no id at all"])
async def test_wrong_id_or_owner_is_4504(web: Web, how: str) -> None:
    """Every reason gets the same frames."""
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
async def test_malformed_token_is_4501(web: Web, token: str) -> None:
    """It says nothing about the session."""
    session, _ = await web.submit()
    client = await refused(web, session.id, additional_headers={"Authorization": f"Bearer {token}"})
    assert (client.frames[0]["code"], client.connection.close_code) == ("invalid_token", 4501)


@pytest.mark.parametrize("how", ["expired", "forged", "of another session", "by another key", "garbage"])
async def test_invalid_ticket_is_4501(web: Web, how: str) -> None:
    """It says nothing about the session."""
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


async def test_socket_outlives_its_ticket(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ticket is needed to open the socket only."""
    session, _ = await web.submit()
    expires = int(web.database.clock.now()) + 60
    ticket = web.services.signer.ticket(session.id, expires=expires)
    async with web.follow(session.id, query=f"?ticket={ticket}") as client:
        await client.next("snapshot")
        monkeypatch.setattr(web.database.clock, "_clock", ManualClock(expires + 1.0))
        late = await refused(web, session.id, query=f"?ticket={ticket}")
        assert late.frames[0]["code"] == "invalid_ticket"
        await web.complete(await web.begin(session))
        assert await client.rest() == 1000
        assert client.story() == [1, 2, 3]


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example", "null", "http://[", ""])
async def test_foreign_origin_is_refused(web: Web, origin: str) -> None:
    """The refusal comes before the handshake."""
    session, token = await web.submit()
    with pytest.raises(InvalidStatus) as refusal:
        async with web.follow(session.id, token, additional_headers={"Origin": origin}):
            pass
    assert_denied(refusal.value, 403, "bad_request")


@pytest.mark.parametrize("path", ["/ws", "/api/tryon/sessions", "/api/tryon/sessions/x/y/ws"])
async def test_unknown_path_is_404(web: Web, path: str) -> None:
    """The refusal comes before the handshake."""
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(f"ws://127.0.0.1:{web.port}{path}", proxy=None):
            pass
    assert_denied(refusal.value, 404, "not_found")


async def test_error_before_the_handshake_is_500(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is a problem, without the error's text."""

    def fail(*args: Any) -> bool:
        raise ValueError("a bug")

    monkeypatch.setattr("server.web.transports.websocket.origin_allowed", fail)
    with pytest.raises(InvalidStatus) as refusal:
        async with web.follow(new_session_id()):
            pass
    assert_denied(refusal.value, 500, "internal_error")


async def test_handshake_echoes_the_request_id(web: Web) -> None:
    """The client's own id comes back."""
    session, token = await web.submit()
    async with web.follow(session.id, token, additional_headers={"X-Request-ID": "mine-1"}) as client:
        assert client.connection.response is not None
        assert client.connection.response.headers["X-Request-ID"] == "mine-1"


class Plain(WebSocketsSansIOProtocol):
    """A server's protocol that offers no ASGI extension; all are optional."""

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        del self.scope["extensions"]


async def test_server_without_extensions_serves_sockets(config: Callable[..., Config]) -> None:
    """Sockets go over plain ASGI, and refusals are bare."""
    async with running_web(config(), ws=Plain) as web:
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            assert (await client.next())["type"] == "snapshot"
        with pytest.raises(InvalidStatus) as refusal:
            async with web.follow(session.id, token, additional_headers={"Origin": "https://evil.example"}):
                pass
        assert refusal.value.response.status_code == 403


async def test_own_and_local_origins_may_connect(web: Web) -> None:
    """Localhost, the same origin and no origin at all."""
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


async def test_configured_origins_replace_localhost(start_web: StartWeb) -> None:
    """Only the configured and the same origin may connect then."""
    web = await start_web(origins=("https://shop.example",))
    session, token = await web.submit()
    for origin in ("https://shop.example", f"http://127.0.0.1:{web.port}"):
        async with web.follow(session.id, token, additional_headers={"Origin": origin}) as client:
            assert (await client.next())["type"] == "snapshot"
    with pytest.raises(InvalidStatus):
        async with web.follow(session.id, token, additional_headers={"Origin": "http://localhost:5173"}):
            pass


@pytest.mark.parametrize("reason", GoneReason)
async def test_erasure_closes_with_its_reason(web: Web, reason: GoneReason) -> None:
    """The socket is closed with 4510, and a reconnect is refused."""
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        if reason is GoneReason.DELETED:
            await web.services.sessions.erasure.delete(session.id, session.owner)
        else:
            await web.services.sessions.erasure.expire([session])
            await web.services.sessions.erasure.remove(session, reason)
        assert await client.rest() == 4510
        assert client.frames[-1] == {
            "type": "bye",
            "code": 4510,
            "reason": reason,
            "reconnect": False,
            "retry_after_ms": None,
        }
    assert (await refused(web, session.id, token)).connection.close_code == 4504


async def test_drain_spreads_reconnects(stack: StartStack, redis_url: str, config: Callable[..., Config]) -> None:
    """Each socket is closed with 4000 and its own delay."""
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
            assert await client.rest(20) == 4000
            bye = client.frames[-1]
            assert (bye["code"], bye["reason"], bye["reconnect"]) == (4000, "draining", True)
            assert 1500 <= bye["retry_after_ms"] <= 2500
        assert len({client.frames[-1]["retry_after_ms"] for client in clients}) > 1, "not all at once"
    assert await process.wait(30) in (0, -15)
