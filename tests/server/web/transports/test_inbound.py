"""The limit of inbound messages, and the decision on each."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from server.web.transports.inbound import INBOUND_LIMIT, INBOUND_SECONDS, SYNC_SECONDS, Answer, InboundState
from testkit.running import Client, Web

BOTH_PATHS = True


def test_messages_are_answered_only_when_admitted() -> None:
    """Before the snapshot nothing is answered, but everything counts."""
    state = InboundState()
    assert state.receive('{"type":"ping"}', 0.0, admitted=False) is Answer.NOTHING
    assert state.receive('{"type":"ping"}', 0.0, admitted=True) is Answer.PONG
    for _ in range(INBOUND_LIMIT - 2):
        assert state.receive("", 0.0, admitted=False) is Answer.NOTHING
    assert state.receive("", 0.0, admitted=False) is Answer.CLOSE
    assert state.receive("", INBOUND_SECONDS, admitted=False) is Answer.NOTHING


def test_sync_is_answered_one_at_a_time() -> None:
    """Neither while one is being answered nor within SYNC_SECONDS of the last."""
    state = InboundState()
    assert state.receive('{"type":"sync","since":-3}', 0.0, admitted=True) is Answer.SYNC
    assert (state.syncing, state.sync_since) == (True, 0)
    assert state.receive('{"type":"sync","since":2}', 5.0, admitted=False) is Answer.NOTHING
    assert state.receive('{"type":"ping"}', 5.0, admitted=False) is Answer.PONG, "it was admitted before"
    state.syncing = False
    assert state.receive('{"type":"sync","since":1e30}', 6.0, admitted=True) is Answer.NOTHING
    assert state.receive('{"type":"sync","since":2}', 6.0, admitted=True) is Answer.SYNC
    assert state.sync_since == 2
    state.syncing = False
    assert state.receive('{"type":"sync"}', 6.0 + SYNC_SECONDS / 2, admitted=True) is Answer.NOTHING


async def test_101st_message_in_10_seconds_is_misuse(web: Web) -> None:
    """The socket is closed with 4500 and must not reconnect."""
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        for _ in range(100):
            await client.send({"type": "nothing"})
        await client.send({"type": "ping"})
        assert await client.rest() == 4500
        assert client.types == ["snapshot", "bye"]
        assert (client.frames[-1]["reason"], client.frames[-1]["reconnect"]) == ("misuse", False)


async def test_inbound_window_slides(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ten seconds have more than a hundred messages, wherever they begin."""
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


async def test_hundred_messages_are_accepted(web: Web) -> None:
    """The hundredth message is answered."""
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        for _ in range(99):
            await client.send({"type": "nothing"})
        await client.send({"type": "ping"})
        await client.next("pong")
