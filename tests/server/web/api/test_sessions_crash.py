"""The demo mode's switch: an owner lets the worker of a session crash."""

from __future__ import annotations

import asyncio

import redis.asyncio as redis

from server.adapters.redis.queue import crash_channel
from server.domain.tokens import new_token
from testkit.running import StartWeb, Web
from testkit.uploads import assert_problem
from tests.server.web.api.calls import do


async def test_crash_does_not_exist_outside_of_demo_mode(web: Web) -> None:
    """For an owner as for a stranger, and also of a running session."""
    session, token = await web.submit()
    await web.begin(session)
    for credential in (token, new_token()):
        assert_problem(await do(web, "crash", session.id, credential), 404, "not_found")


async def test_crash_reaches_the_worker_of_the_session(start_web: StartWeb) -> None:
    """By the owner alone, while it runs; every worker in demo mode hears the id."""
    web = await start_web(demo=True)
    assert (await web.client.get("/api/tryon/limits")).json()["demo"] is True
    session, token = await web.submit()
    assert_problem(await do(web, "crash", session.id, token), 409, "not_running")
    await web.begin(session)
    assert_problem(await do(web, "crash", session.id, new_token()), 404, "not_found")
    async with redis.Redis.from_url(web.config.redis) as client, client.pubsub() as channel:
        await channel.subscribe(crash_channel(web.config.key_prefix))
        answer = await do(web, "crash", session.id, token)
        assert (answer.status_code, answer.json()["status"]) == (202, "processing")
        async with asyncio.timeout(10):
            while (message := await channel.get_message(timeout=1)) is None or message["type"] != "message":
                pass
        assert message["data"] == session.id.encode()


async def test_crashes_of_an_address_are_limited(start_web: StartWeb) -> None:
    """The fourth in a minute is refused; also where uploads are not limited."""
    web = await start_web(demo=True, upload_rate=None)
    session, token = await web.submit()
    await web.begin(session)
    assert [(await do(web, "crash", session.id, token)).status_code for _ in range(3)] == [202] * 3
    refused = await do(web, "crash", session.id, token)
    assert_problem(refused, 429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
