"""Access to sessions by token and ticket, over all endpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from server.adapters.database import reading
from server.domain.tokens import new_token, token_hash
from testkit.running import StartWeb, Web
from testkit.uploads import assert_problem
from testkit.values import new_session_id
from tryon.protocol.paths import SESSIONS


@pytest.mark.parametrize("view", ["", "/history", "/events"])
async def test_refused_credentials_look_alike(web: Web, view: str) -> None:
    """Wrong, missing and foreign credentials and unknown ids get the same 404."""
    session, token = await web.submit()
    _, another = await web.submit()

    async def seen(session_id: str, **headers: str) -> tuple[int, str, list[tuple[str, str]]]:
        headers["X-Request-ID"] = "the-same"
        answer = await web.client.get(f"{SESSIONS}/{session_id}{view}", headers=headers)
        return answer.status_code, answer.text, [(n, v) for n, v in answer.headers.items() if n != "date"]

    answers = [
        await seen(session.id),
        await seen(session.id, Authorization="Bearer " + "w" * 43),
        await seen(session.id, **{"X-Client-Token": another}),
        await seen(session.id, Authorization="Basic dXNlcjpwYXNz"),
        await seen(new_session_id(), **{"X-Client-Token": token}),
        await seen(new_session_id()),
        await seen("garbage", **{"X-Client-Token": token}),
        await seen(session.id.upper() + "0", **{"X-Client-Token": token}),
    ]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] == 404


async def test_token_is_stored_as_hash_only(web: Web) -> None:
    """No file of the data folder holds the token."""
    session, token = await web.submit()
    assert session.owner == token_hash(token)
    for path in web.config.data_dir.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes()


async def test_ticket_grants_no_longer_access(start_web: StartWeb) -> None:
    """Answers to a ticket hold no ticket, and no link that outlives it."""
    web = await start_web(link_seconds=3600)
    session, _ = await web.submit()
    await web.complete(await web.begin(session))
    expires = int(web.database.clock.now()) + 60
    ticket = web.services.signer.ticket(session.id, expires=expires)
    for view in ("?since=0&", "/history?"):
        answer = await web.client.get(f"{SESSIONS}/{session.id}{view}ticket={ticket}")
        assert answer.status_code == 200
        assert "ticket" not in answer.text
        links = re.findall(r"/api/tryon/files/[^\"]+", answer.text)
        assert len(links) >= 2
        for link in links:
            assert int(parse_qs(urlsplit(link).query)["expires"][0]) <= expires


@pytest.mark.parametrize("how", ["expired", "forged", "garbage"])
async def test_bad_ticket_is_401(web: Web, how: str) -> None:
    """Expired, forged and malformed tickets are refused."""
    session, _ = await web.submit()
    expires = int(web.database.clock.now()) + (-1 if how == "expired" else 60)
    ticket = web.services.signer.ticket(session.id, expires=expires)
    ticket = {"expired": ticket, "forged": ticket[:-3] + "AAA", "garbage": "%00%ff"}[how]
    assert_problem(await web.client.get(f"{SESSIONS}/{session.id}?ticket={ticket}"), 401, "invalid_ticket")


CALLS = [
    ("GET", ""), ("GET", "?since=0"), ("GET", "?since=0&wait=1"), ("GET", "/history"), ("GET", "/events?since=0"),
    ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", ""),
]  # fmt: skip


@pytest.mark.parametrize(("method", "call"), CALLS, ids=lambda part: part or "plain")
async def test_foreign_id_costs_what_an_unknown_one_costs(
    web: Web, monkeypatch: pytest.MonkeyPatch, method: str, call: str
) -> None:
    """Nothing of the row is decoded but its owner."""
    session, token = await web.submit()
    await web.complete(await web.begin(session))
    await web.services.sessions.queue_places.current()
    work: list[str] = []

    def counted(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            work.append(kind)
            return function(*arguments)

        return call

    for name in ("to_session", "to_event"):
        monkeypatch.setattr(reading, name, counted(name, getattr(reading, name)))

    async def cost(session_id: str, token: str) -> list[str]:
        work.clear()
        headers = {"X-Client-Token": token}
        answer = await web.client.request(method, f"{SESSIONS}/{session_id}{call}", headers=headers)
        assert token == owner or answer.status_code == 404
        return list(work)

    owner, stranger = token, new_token()
    assert await cost(new_session_id(), stranger) == []
    assert await cost(session.id, stranger) == []
    assert "to_session" in await cost(session.id, owner), "the count counts"


async def test_answers_with_credentials_are_not_stored(web: Web) -> None:
    """No cache keeps an answer that carries tickets or signed links, a 304 included."""
    session, token = await web.submit()
    headers = {"X-Client-Token": token}
    path = f"{SESSIONS}/{session.id}"
    polled = await web.client.get(path, headers=headers)
    assert "ticket=" in polled.text
    answers = [
        polled,
        await web.client.get(path, headers=headers | {"If-None-Match": polled.headers["ETag"]}),
        await web.client.get(f"{path}?since=0&wait=1", headers=headers),
        await web.client.get(f"{path}/history", headers=headers),
        await web.client.get(SESSIONS, headers=headers),
        await web.client.post(f"{path}/cancel", headers=headers),
        await web.client.post(f"{path}/retry", headers=headers),
        await web.client.delete(path, headers=headers),
        await web.client.get(path, headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [200, 304, 200, 200, 200, 200, 201, 200, 404]
    assert [answer.headers["Cache-Control"] for answer in answers] == ["no-store"] * len(answers)
