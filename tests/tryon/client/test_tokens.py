"""Tokens that a function gives: asked once, renewed once when they are refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from server.config.settings import Config
from testkit.issuers import Issuer, issuing
from testkit.photos import small
from testkit.running import Web, running_web
from tryon.client.api import AsyncTryOn
from tryon.client.problems import Problem
from tryon.client.state import Update
from tryon.client.sync import TryOn
from tryon.client.tokens import Tokens
from tryon.protocol.backoff import TRANSPORTS


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Run an issuer."""
    async with issuing() as issuer:
        yield issuer


@pytest.fixture
async def web(config: Callable[..., Config], issuer: Issuer) -> AsyncIterator[Web]:
    """Run a server that takes uploads of the issuer's users alone."""
    async with running_web(config(**issuer.settings, anonymous=False)) as web:
        yield web


class Login:
    """A user's sign-in: the first tokens it gives are expired."""

    def __init__(self, issuer: Issuer, *, expired: int) -> None:
        self.issuer = issuer
        self.expired = expired
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        more: dict[str, Any] = {"exp": 1000 + self.asked} if self.asked <= self.expired else {}
        return self.issuer.token("ann", jti=str(self.asked), **more)

    async def later(self) -> str:
        await asyncio.sleep(0)
        return self()


def client(web: Web, token: Callable[[], object]) -> AsyncTryOn:
    return AsyncTryOn(f"http://127.0.0.1:{web.port}", token=token, trust_env=False, timeout=30)  # type: ignore[arg-type]


async def test_calls_at_the_same_time_ask_once() -> None:
    """Before the first token, and for its renewal."""
    given = iter("ab")
    tokens = Tokens(lambda: next(given))
    assert await asyncio.gather(*(tokens.current() for _ in range(5))) == ["a"] * 5
    assert await asyncio.gather(*(tokens.renew("a") for _ in range(5))) == [True] * 5
    assert tokens.last == "b"
    assert repr(tokens) == "<Tokens of a function>"


async def test_text_is_never_renewed() -> None:
    """Nor a function that gives the same token again."""
    assert not await Tokens("t").renew("t")
    tokens = Tokens(lambda: "t")
    assert await tokens.current() == "t"
    assert not await tokens.renew("t")


async def test_expired_token_is_renewed_once_for_a_call(web: Web, issuer: Issuer) -> None:
    """An async function is awaited; the session belongs to the user."""
    login = Login(issuer, expired=1)
    async with client(web, login.later) as tryon:
        session = await tryon.upload(small())
        assert [each.session_id for each in (await tryon.list()).sessions] == [session.session_id]
    assert login.asked == 2


async def test_second_refusal_is_the_answer(web: Web, issuer: Issuer) -> None:
    """A function that gives expired tokens for ever is asked twice."""
    login = Login(issuer, expired=9)
    async with client(web, login) as tryon:
        with pytest.raises(Problem) as refused:
            await tryon.list()
    assert (refused.value.code, login.asked) == ("invalid_token", 2)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_follower_renews_a_refused_token(web: Web, issuer: Issuer, transport: str) -> None:
    """Over each transport alone; the events come once and in order."""
    async with client(web, Login(issuer, expired=0)) as first:
        session = await first.upload(small())
    login = Login(issuer, expired=1)
    async with client(web, login) as tryon, aclosing(tryon.follow(session.session_id, transports=(transport,))) as seen:
        assert (await anext(seen)).session.status == "created"
        assert await web.services.sessions.claims.begin(session.session_id, worker="test")
        async for update in seen:
            if update.session.status == "processing":
                break
    assert login.asked == 2


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_follower_gives_up_after_the_second_refusal(web: Web, issuer: Issuer, transport: str) -> None:
    """It does not ask for ever."""
    login = Login(issuer, expired=9)
    async with client(web, login) as tryon, aclosing(tryon.follow("0" * 8, transports=(transport,))) as seen:
        with pytest.raises(Problem) as refused:
            await anext(seen)
    assert (refused.value.code, login.asked) == ("invalid_token", 2)


@pytest.mark.parametrize("transport", ["ws", "sse", "poll"])
async def test_watcher_renews_a_refused_token(web: Web, issuer: Issuer, transport: str) -> None:
    """The connection for all sessions of a user, over each transport alone."""
    async with client(web, Login(issuer, expired=0)) as first:
        session = await first.upload(small())
    login = Login(issuer, expired=1)
    async with client(web, login) as tryon, aclosing(tryon.watch_all(transports=(transport,))) as seen:
        update = await anext(seen)
        assert isinstance(update, Update)
        assert update.session.session_id == session.session_id
    assert login.asked == 2


async def test_error_of_the_function_reaches_the_caller(web: Web) -> None:
    """Of calls and followers alike: it is the sign-in that failed."""

    def fail() -> str:
        raise PermissionError("signed out")

    async with client(web, fail) as tryon:
        with pytest.raises(PermissionError):
            await tryon.list()
        with pytest.raises(PermissionError):
            await anext(tryon.follow("0" * 8))


async def test_sync_client_takes_a_function(web: Web, issuer: Issuer) -> None:
    """The same without ``await``."""
    login = Login(issuer, expired=1)

    def use() -> None:
        with TryOn(f"http://127.0.0.1:{web.port}", token=login, trust_env=False) as tryon:
            assert tryon.list().sessions == []

    await asyncio.to_thread(use)
    assert login.asked == 2
