"""Tabs of one owner behind an nginx without Upgrade share one stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
from playwright.async_api import BrowserContext

from server.domain.tokens import new_token
from testkit.nginx import Nginx, most_at_once
from testkit.running import Web, until
from tests.browser.tabs import OpenTab, Tab, crash, end, leave

pytestmark = pytest.mark.xdist_group("chromium")

DEAF: Final = "BroadcastChannel.prototype.postMessage = () => {};"
"""Makes a page answer no other tab, as one that the system has frozen."""


async def sharing(open_tab: OpenTab, web: Web, count: int = 3) -> tuple[list[Tab], str]:
    """Return tabs of one owner that share a stream, the leader first."""
    owner = new_token()
    tabs = [await open_tab(owner, transports=["sse", "poll"])]
    await tabs[0].on("sse")
    assert len(web.hub.owners) == 0, "a tab alone has its session's own stream"
    tabs += await asyncio.gather(*(open_tab(owner, transports=["sse", "poll"]) for _ in range(count - 1)))
    for tab in tabs:
        await tab.until("following.link.shared && following.transport === 'sse'")
    assert len(web.hub.owners) == 1
    return tabs, owner


async def test_tabs_of_one_owner_share_one_stream(open_tab: OpenTab, web: Web, nginx: Nginx) -> None:
    """Each sees its session whole, and none says that it was ever less than live."""
    tabs, _ = await sharing(open_tab, web)
    for tab in tabs:
        await tab.ends_whole()
        said = await tab.page.evaluate("story.connections.map(({ connection }) => connection)")
        assert said == ["connecting", "live", "finished"]
    await until(lambda: len(web.hub.owners) == 0)
    streams = [answer for answer in nginx.answers() if answer.path.endswith("/events")]
    assert most_at_once(streams) <= 2, "the first tab's own until the shared one has begun"


async def test_tab_stays_in_silent_stream(context: BrowserContext, open_tab: OpenTab, web: Web) -> None:
    """One that joins later hears nothing before something happens to its session."""
    await context.clock.install()
    tabs, owner = await sharing(open_tab, web)
    tabs.append(await open_tab(owner, transports=["sse", "poll"]))
    await tabs[-1].until("following.link.shared && following.transport === 'sse'")
    for _ in range(2):
        await context.clock.fast_forward(6000)  # longer than a link may take to its first frame
    for tab in tabs:
        await tab.ends_whole()
        said = await tab.page.evaluate("story.connections.map(({ connection }) => connection)")
        assert said == ["connecting", "live", "finished"]


@pytest.mark.parametrize("leaves", [leave, pytest.param(crash, marks=pytest.mark.slow), end])
async def test_other_tab_takes_the_lead(
    open_tab: OpenTab, web: Web, nginx: Nginx, leaves: Callable[[Tab], Awaitable[None]]
) -> None:
    """The leader is closed, crashes, or has seen its end; the others miss nothing."""
    (leader, *others), owner = await sharing(open_tab, web)
    claims = [await web.begin(tab.session) for tab in others]
    await leaves(leader)
    others.append(await open_tab(owner, transports=["sse", "poll"]))
    await others[-1].on("sse")
    claims.append(await web.begin(others[-1].session))
    for tab, claim in zip(others, claims, strict=True):
        await web.complete(claim)
        await tab.until("story.end !== null")
        assert [event["seq"] for event in (await tab.page.evaluate("story"))["events"]] == [1, 2, 3]
    streams = [answer for answer in nginx.answers() if answer.path.endswith("/events")]
    assert most_at_once(streams) <= 2


async def test_hidden_leader_leaves_the_lead_to_visible_tab(open_tab: OpenTab, web: Web) -> None:
    """The system may freeze it at any time."""
    (leader, *others), _ = await sharing(open_tab, web)
    stream = next(iter(web.hub.owners.lines()))
    await leader.look("hidden")
    await until(lambda: web.hub.owners.lines() not in ([], [stream]))
    for tab in (leader, *others):
        await tab.ends_whole()


async def test_tab_without_answering_leader_has_its_own_stream(
    context: BrowserContext, open_tab: OpenTab, web: Web
) -> None:
    """As it had before tabs shared any."""
    owner = new_token()
    await context.add_init_script(f"if (!localStorage.seen) {{ localStorage.seen = 1; {DEAF} }}")
    frozen = await open_tab(owner, transports=["sse", "poll"])
    await frozen.on("sse")
    tab = await open_tab(owner, transports=["sse", "poll"])
    await tab.on("sse")
    assert not await tab.page.evaluate("following.link.shared")
    await frozen.ends_whole()
    await tab.ends_whole()


async def test_erased_session_is_gone_in_each_tab(open_tab: OpenTab, web: Web) -> None:
    """With the reason that its own stream would tell."""
    tabs, owner = await sharing(open_tab, web)
    for tab in tabs[1:]:
        await web.client.delete(f"/api/tryon/sessions/{tab.session.id}", headers={"Authorization": f"Bearer {owner}"})
        await tab.until("story.gone !== null")
        assert await tab.page.evaluate("story.gone") == "deleted"
