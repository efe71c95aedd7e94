"""The ping wheel: each follower once a period."""

from __future__ import annotations

import contextlib

import pytest

from server.services import open_services
from server.web.push.hub import Hub
from testkit.running import new_session, until
from tests.server.web.push.kit import (
    MakeConfig,
    Page,
    join,
    make_hub,
)


async def test_followers_are_pinged_every_period(config: MakeConfig) -> None:
    """A follower is pinged again and again."""
    async with open_services(config(ping_seconds=0.05)) as services:
        hub = make_hub(services)
        async with hub.running(), contextlib.AsyncExitStack() as stack:
            session = await services.database.writer.insert(new_session())
            page = Page(session.id)
            await join(hub, services, page, stack)
            await until(lambda: page.pings >= 3)


async def test_pings_are_spread_over_the_period(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one turn of the wheel 2,000 followers are pinged once, 20 at a time."""
    pages = [Page(new_session().id) for _ in range(2000)]
    pinged: list[Page] = []
    monkeypatch.setattr(Page, "ping", lambda page, frame: pinged.append(page))
    for page in pages:
        hub.join(page, transport="test")
        page.seq = 1
    before, turns = len(pinged), []
    for _ in range(100):
        hub.pings.turn()
        turns.append(len(pinged) - before)
        before = len(pinged)
    assert sorted(map(id, pinged)) == sorted(map(id, pages)), "each once"
    assert max(turns) < 60, "20 on average"
    for page in pages:
        hub.leave(page, transport="test")
    assert not any(hub.pings._slots)
