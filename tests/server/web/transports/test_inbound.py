"""The limit of inbound messages, and the decision on each."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from server.web.transports.inbound import Answer, InboundState
from testkit.running import Client, Web

BOTH_PATHS = True


async def test_the_101st_message_in_10_seconds_is_misuse(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        for _ in range(100):
            await client.send({"type": "nothing"})
        await client.send({"type": "ping"})
        assert await client.rest() == 4500
        assert client.types == ["snapshot", "bye"]
        assert (client.frames[-1]["reason"], client.frames[-1]["reconnect"]) == ("misuse", False)


async def test_no_10_seconds_may_have_more_wherever_they_begin(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0)
    receive = InboundState.receive

    def at(state: InboundState, text: str, now: float, *, admitted: bool) -> Answer:
        return receive(state, text, clock.now, admitted=admitted)

    monkeypatch.setattr(InboundState, "receive", at)
    session, token = await web.submit()

    async def speak(client: Client, times: int) -> None:
        for _ in range(times):
            await client.send({"type": "ping"})
            await client.next("pong")

    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        await speak(client, 1)
        clock.now = 1009.9
        await speak(client, 99)
        clock.now = 1010.1  # the first no longer counts
        await speak(client, 1)
        await client.send({"type": "ping"})
        assert await client.rest() == 4500


async def test_a_hundred_messages_are_no_misuse(web: Web) -> None:
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        for _ in range(99):
            await client.send({"type": "nothing"})
        await client.send({"type": "ping"})
        await client.next("pong")
