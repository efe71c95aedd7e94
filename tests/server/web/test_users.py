"""Users of the integrator over every transport, on a real server with a real issuer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets import Subprotocol
from websockets.asyncio.client import connect

from server.domain.identities import OwnerIds
from server.domain.tokens import SecretKey, new_token
from testkit.following import blocks
from testkit.issuers import Issuer, issuing
from testkit.running import Client, StartWeb
from testkit.uploads import upload
from tryon.protocol.paths import LIMITS, OWNER_EVENTS, OWNER_SOCKET, SESSIONS


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Run an issuer."""
    async with issuing() as issuer:
        yield issuer


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_user_uploads_follows_and_erases(
    start_web: StartWeb, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    """Another token of the same user owns the session; logs name neither of both."""
    caplog.set_level(logging.DEBUG)
    web = await start_web(**issuer.settings)
    token = issuer.token("ann@shop.example")
    made = await upload(web, token)
    assert made.status_code == 201, made.text
    assert "client_token" not in made.json()
    session_id, again = made.json()["session_id"], issuer.token("ann@shop.example", jti="2")
    async with web.follow(session_id, again) as client:
        assert (await client.next("snapshot"))["session"]["links"]["ws"].count("ticket=")
    async with web.client.stream("GET", f"{SESSIONS}/{session_id}/events", headers=bearer(again)) as stream:
        assert stream.status_code == 200
    polled = await web.client.get(f"{SESSIONS}/{session_id}?since=0&wait=1", headers=bearer(again))
    assert [event["seq"] for event in polled.json()["missed"]] == [1]
    listed = await web.client.get(SESSIONS, headers=bearer(again))
    assert [each["session_id"] for each in listed.json()["sessions"]] == [session_id]
    key = SecretKey.of(web.config.secret_keys[0]).subkey("owner")
    session = await web.services.database.reader.get(session_id)
    assert session is not None
    assert session.owner == OwnerIds(key).of(issuer.url, "ann@shop.example")
    for stranger in (issuer.token("eve"), new_token()):
        assert (await web.client.delete(f"{SESSIONS}/{session_id}", headers=bearer(stranger))).status_code == 404
    assert (await web.client.delete(f"{SESSIONS}/{session_id}", headers=bearer(again))).status_code == 200
    for secret in ("ann@shop", token, token.split(".")[2]):
        assert secret not in caplog.text


async def test_user_follows_all_sessions_on_one_connection(start_web: StartWeb, issuer: Issuer) -> None:
    """Over the owner's socket and stream; of other users' sessions nothing comes."""
    web = await start_web(**issuer.settings)
    own = [(await upload(web, issuer.token("ann"))).json()["session_id"] for _ in range(2)]
    assert (await upload(web, issuer.token("eve"))).status_code == 201
    again = issuer.token("ann", jti="2")
    url = f"ws://127.0.0.1:{web.port}{OWNER_SOCKET}"
    async with connect(url, subprotocols=own_subprotocols(again), proxy=None) as connection:
        client = Client(connection)
        await client.next("synced")
    assert shown(client.frames) == sorted(own)
    async with web.client.stream("GET", OWNER_EVENTS, headers=bearer(again)) as stream:
        assert stream.status_code == 200
        frames = []
        async with asyncio.timeout(20):
            async for block in blocks(stream):
                if block.data is not None:
                    frames.append(block.frame)
                if frames and frames[-1]["type"] == "synced":
                    break
    assert shown(frames) == sorted(own)
    late = issuer.token("ann", exp=1000)
    assert (await web.client.get(OWNER_EVENTS, headers=bearer(late))).status_code == 401
    async with connect(url, subprotocols=own_subprotocols(late), proxy=None) as connection:
        assert await Client(connection).rest() == 4501


def own_subprotocols(token: str) -> list[Subprotocol]:
    return [Subprotocol("tryon.v1"), Subprotocol(f"tryon.bearer.{token}")]


def shown(frames: list[dict[str, Any]]) -> list[str]:
    return sorted(frame["session"]["session_id"] for frame in frames if frame["type"] == "snapshot")


async def test_bad_token_is_refused_over_every_transport(start_web: StartWeb, issuer: Issuer) -> None:
    """HTTP says so in WWW-Authenticate, a socket in an error frame and 4501."""
    web = await start_web(**issuer.settings)
    session, _ = await web.submit()
    late = issuer.token(exp=1000)
    for path in (SESSIONS, f"{SESSIONS}/{session.id}", f"{SESSIONS}/{session.id}/events"):
        answer = await web.client.get(path, headers=bearer(late))
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert (await upload(web, late)).status_code == 401
    async with web.follow(session.id, late) as client:
        assert await client.rest() == 4501
        assert client.frames[0]["code"] == "invalid_token"


async def test_missing_scope_is_refused_over_http_and_socket(start_web: StartWeb, issuer: Issuer) -> None:
    """403 with the challenge of RFC 6750, and 4501."""
    web = await start_web(**issuer.settings, jwt_scope="tryon")
    session, _ = await web.submit()
    answer = await web.client.get(SESSIONS, headers=bearer(issuer.token(scope="other")))
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'
    async with web.follow(session.id, issuer.token()) as client:
        assert await client.rest() == 4501
    assert (await web.client.get(SESSIONS, headers=bearer(issuer.token(scope="a tryon")))).status_code == 200


async def test_unknown_key_in_an_outage_is_unavailable(start_web: StartWeb, issuer: Issuer) -> None:
    """503 with the time to wait, never 401: the token may be good. Known keys go on."""
    web = await start_web(**issuer.settings)
    assert (await web.client.get(SESSIONS, headers=bearer(issuer.token()))).status_code == 200
    issuer.documents["/keys"] = {"keys": [*issuer.documents["/keys"]["keys"]]}
    good = issuer.token()
    issuer.rotate("second")
    issuer.documents["/keys"] = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    answer = await web.client.get(SESSIONS, headers=bearer(issuer.token()))
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    assert (await web.client.get(SESSIONS, headers=bearer(good))).status_code == 200


async def test_anonymous_off_takes_uploads_of_users_alone(start_web: StartWeb, issuer: Issuer) -> None:
    """Sessions from before stay their owners'; a retry is an upload."""
    web = await start_web(**issuer.settings, anonymous=False)
    session, token = await web.submit()
    assert (await web.client.get(LIMITS)).json()["anonymous"] is False
    retried = await web.client.post(f"{SESSIONS}/{session.id}/retry", headers=bearer(token))
    for answer in (await upload(web), await upload(web, token), retried):
        assert (answer.status_code, answer.json()["code"]) == (401, "token_required")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await web.client.get(f"{SESSIONS}/{session.id}", headers=bearer(token))).status_code == 200
    assert (await upload(web, issuer.token())).status_code == 201


async def test_jwt_without_an_issuer_is_invalid(start_web: StartWeb, issuer: Issuer) -> None:
    """A server without users takes anonymous tokens alone."""
    web = await start_web()
    answer = await web.client.get(SESSIONS, headers=bearer(issuer.token()))
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    assert issuer.asked == []
