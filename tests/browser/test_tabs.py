"""Tabs of one browser behind an nginx without Upgrade share few streams.

Over HTTP/1.1 a browser opens six connections to a host, for all its tabs together. Tabs
of one owner share one stream, those of several owners four. The test plays the worker.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import BrowserContext, Page, expect

from server.domain.stored_files import NewFile
from server.domain.tokens import new_token
from server.web.transports.long_poll import POLL_SECONDS
from testkit.nginx import Nginx, most_at_once
from testkit.processes import ROOT
from testkit.running import Web, until
from tests.browser.gate import open_gate
from tests.browser.play import followers
from tests.browser.tabs import HTML, OpenTab, Tab, crash, end, leave
from tests.browser.visitor import WATCH

pytestmark = pytest.mark.xdist_group("chromium")

SLOTS: Final = 4
"""Maximum streams that a browser keeps open to a host, as in tryon-tabs.js."""

STALE_SECONDS: Final = 5.0
"""Maximum time for which a tab may be stale."""

HIDDEN: Final = "Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true });"
"""Hides a page before it loads, as a tab that is opened in the background."""

NO_LOCKS: Final = "Object.defineProperty(navigator, 'locks', { value: undefined });"
"""Removes Web Locks before a page loads, as on a page over plain HTTP."""


async def full(open_tab: OpenTab, transport: str = "sse") -> tuple[list[Tab], Tab]:
    """Return tabs that hold all slots, and one more tab, which polls."""
    live = await asyncio.gather(*(open_tab(transports=[transport, "poll"]) for _ in range(SLOTS)))
    for tab in live:
        await tab.on(transport)
    waiting = await open_tab(transports=[transport, "poll"])
    await waiting.on("poll")
    return list(live), waiting


# -- the decisions ---------------------------------------------------------------------


DECISIONS: Final = [
    # visible, shared, wanted; gives its slot away, takes a free one
    (True, True, True, False, True),
    (True, True, False, False, True),
    (True, False, True, False, True),
    (True, False, False, False, True),
    (False, True, True, True, True),
    (False, True, False, False, True),
    (False, False, True, True, False),
    (False, False, False, True, False),
]


async def test_hidden_tab_decides_about_its_slot(page: Page, web: Web) -> None:
    """A waiting visible tab gets the slot; without Web Locks hidden tabs keep none."""
    await page.goto(f"http://127.0.0.1:{web.port}/api/health/live")
    decided = await page.evaluate(
        """async (rows) => {
            const { givesWay, takes } = await import("/static/tryon-tabs.js");
            return rows.map(([visible, shared, wanted]) => {
                const tab = { visible, shared, wanted };
                return [visible, shared, wanted, givesWay(tab), takes(tab)];
            });
        }""",
        DECISIONS,
    )
    assert [tuple(row) for row in decided] == DECISIONS


def test_polling_tab_asks_within_stale_time() -> None:
    """Both the server's Retry-After and the client's own pause are short enough."""
    code = (ROOT / "static" / "tryon-lower.js").read_text()
    own = re.search(r"const POLL_MS = (\d+);", code)
    assert own is not None
    assert max(int(own[1]) / 1000, *POLL_SECONDS.values()) <= STALE_SECONDS / 2


# -- slots -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaves", "transport"),
    [
        (leave, "sse"),
        pytest.param(crash, "sse", marks=pytest.mark.slow),
        pytest.param(end, "sse", marks=pytest.mark.slow),
        pytest.param(leave, "long-poll", marks=pytest.mark.slow),
    ],
)
async def test_free_slot_goes_to_next_tab(
    open_tab: OpenTab, web: Web, nginx: Nginx, leaves: Callable[[Tab], Awaitable[None]], transport: str
) -> None:
    """A tab is closed, crashes or has seen the end; the others see every event."""
    live, waiting = await full(open_tab, transport)
    await leaves(live[0])
    await waiting.on(transport)
    await until(lambda: len(followers(web)) <= SLOTS)  # the server may hear of the end after the next beginning
    for tab in (*live[1:], waiting):
        await tab.ends_whole()
    await until(lambda: not followers(web))
    streams = [answer for answer in nginx.answers() if answer.path.endswith("/events")]
    assert most_at_once(streams) == (SLOTS if transport == "sse" else 0)


@pytest.mark.slow
async def test_polling_tab_learns_of_its_end(open_tab: OpenTab) -> None:
    """The tab polls all the time, because all slots are held."""
    live, waiting = await full(open_tab)
    await waiting.ends_whole()
    assert await waiting.page.evaluate("story.connections.map(({ connection }) => connection)") == [
        "connecting",
        "polling",
        "finished",
    ]
    for tab in live:
        assert await tab.transport() == "sse"


async def test_hidden_tab_makes_room_for_visible_one(open_tab: OpenTab) -> None:
    """A tab gives way when it is hidden, and when a visible tab opens later."""
    live, waiting = await full(open_tab)
    await live[0].look("hidden")
    await live[0].on("poll")
    await waiting.on("sse")
    await live[1].look("hidden")  # no tab waits: it stays connected
    new = await open_tab(transports=["sse", "poll"])
    await new.on("sse")
    await live[1].on("poll")
    await live[0].look("visible")
    await new.page.close()
    await live[0].on("sse")
    await asyncio.gather(*(tab.ends_whole() for tab in (*live, waiting)))


async def test_tab_opened_in_background_is_live(context: BrowserContext, open_tab: OpenTab) -> None:
    """Its WebSocket is refused, and it goes on to the next rung without being seen."""
    await context.add_init_script(HIDDEN)
    tab = await open_tab()
    await tab.on("sse")
    await tab.ends_whole()


FOLLOW_MORE: Final = """
async (sessions) => {
  const { TryOn } = await import("/static/tryon.js");
  window.all = sessions.map(([id, token]) => new TryOn({ token }).follow(id, { transports: ["sse", "poll"] }));
  window.transports = () => all.map(({ transport }) => transport).sort().join();
}
"""


async def submitted(web: Web, count: int) -> list[tuple[str, str]]:
    """Return the ids of new sessions of as many owners, with their tokens."""
    made = [await web.submit() for _ in range(count)]
    return [(session.id, token) for session, token in made]


@pytest.mark.parametrize("locks", ["", NO_LOCKS])
async def test_page_with_many_sessions_holds_four_streams(
    context: BrowserContext, web: Web, nginx: Nginx, locks: str
) -> None:
    """Sessions of as many owners; one that is closed frees its slot."""
    await context.add_init_script(locks)
    sessions = await submitted(web, SLOTS + 2)
    page = await context.new_page()
    await page.route("**/blank", lambda route: route.fulfill(body=HTML, content_type="text/html"))
    await page.goto(f"{nginx.url}/blank")
    await page.evaluate(FOLLOW_MORE, sessions)
    await page.wait_for_function("() => transports() === 'poll,poll,sse,sse,sse,sse'")
    await page.evaluate("all.find(({ transport }) => transport === 'sse').close()")
    await page.wait_for_function("() => transports() === ',poll,sse,sse,sse,sse'")
    await until(lambda: len(followers(web)) == SLOTS)


async def test_page_without_locks_gets_all_streams_back(context: BrowserContext, web: Web, nginx: Nginx) -> None:
    """All slots are free when the page is shown again; each session takes one."""
    await context.add_init_script(NO_LOCKS)
    sessions = await submitted(web, SLOTS)
    page = await context.new_page()
    await page.route("**/blank", lambda route: route.fulfill(body=HTML, content_type="text/html"))
    await page.goto(f"{nginx.url}/blank")
    await page.evaluate(FOLLOW_MORE, sessions)
    for visibility, transports in (("visible", "sse,sse,sse,sse"), ("hidden", "poll,poll,poll,poll")) * 2:
        await page.evaluate(f"look({json.dumps(visibility)})")
        await page.wait_for_function(f"() => transports() === {json.dumps(transports)}", timeout=20_000)


@pytest.mark.slow
async def test_cut_network_leaves_no_slot_unused(context: BrowserContext, web: Web) -> None:
    """Slots granted while the server is unavailable are used once it is back."""
    async with open_gate(web.port) as gate:
        sessions = await submitted(web, SLOTS + 2)
        page = await context.new_page()
        await page.route("**/blank", lambda route: route.fulfill(body=HTML, content_type="text/html"))
        await page.goto(f"{gate.url}/blank")
        await page.evaluate(FOLLOW_MORE, sessions)
        await page.wait_for_function("() => transports() === 'poll,poll,sse,sse,sse,sse'")
        gate.refuses = True
        gate.cut()
        await page.wait_for_function("() => transports() === ',,,,,'")
        gate.refuses = False
        await page.wait_for_function("() => transports() === 'poll,poll,sse,sse,sse,sse'", timeout=20_000)
        await page.evaluate("all.filter(({ transport }) => transport === 'sse').forEach((one) => one.close())")
        await page.wait_for_function("() => transports() === ',,,,sse,sse'")


async def test_hidden_tab_lets_stream_go_without_locks(context: BrowserContext, open_tab: OpenTab, web: Web) -> None:
    """The hidden tab polls; when shown, it resumes its stream at its cursor."""
    await context.add_init_script(NO_LOCKS)
    tab = await open_tab()
    await tab.on("sse")
    await tab.look("hidden")
    await tab.on("poll")
    await until(lambda: not followers(web))
    claim = await web.begin(tab.session)
    await tab.until("following.cursor === 2")
    await tab.look("visible")
    await tab.on("sse")
    await web.complete(claim)
    await tab.until("story.end !== null")
    assert [event["seq"] for event in (await tab.page.evaluate("story"))["events"]] == [1, 2, 3]


# -- twenty tabs -----------------------------------------------------------------------

TABS: Final = 20

WORKING: Final = """
addEventListener("DOMContentLoaded", () => {
  const headline = document.querySelector("#headline");
  const look = () => headline.textContent === "Working on it" && (window.workingAt ??= Date.now() / 1000);
  new MutationObserver(look).observe(headline, { childList: true, characterData: true, subtree: true });
});
"""
"""Notes when the page shows that its session is being worked on."""


@dataclass
class Shown:
    """A demo page in a tab, with the session that it shows."""

    page: Page
    session_id: str

    async def live(self) -> bool:
        return await self.page.locator("#chip").get_attribute("data-connection") == "live"

    async def says(self, words: str | re.Pattern[str]) -> None:
        await expect(self.page.locator("#headline")).to_have_text(words, timeout=60_000)


async def arrive(context: BrowserContext, web: Web, url: str, token: str, photo: Path, *, uploads: bool) -> Shown:
    """Open a tab that uploads the photo, or follows another session of it."""
    page = await context.new_page()
    if not uploads:
        session, _ = await web.submit(token, NewFile(photo.read_bytes(), role="person"))
        await page.goto(f"{url}/#session={session.id}")
        return Shown(page, session.id)
    await page.goto(url)
    await page.set_input_files("#photo-input", photo)
    await expect(page.locator("#go")).to_have_attribute("aria-disabled", "false")
    async with page.expect_response(lambda answer: answer.request.method == "POST") as uploaded:
        await page.locator("#go").click()
    return Shown(page, (await (await uploaded.value).json())["session_id"])


async def live_ones(tabs: list[Shown]) -> list[Shown]:
    return [tab for tab in tabs if await tab.live()]


async def all_are_live(tabs: list[Shown]) -> None:
    """Wait until every tab is live."""
    async with asyncio.timeout(60):
        while len(await live_ones(tabs)) != len(tabs):
            await asyncio.sleep(0.1)


def last_read(nginx: Nginx) -> float:
    """Return when the last read of a session began."""
    return max(answer.began for answer in nginx.answers() if answer.path.startswith("/api/tryon/sessions/"))


@pytest.mark.slow
@pytest.mark.alone
async def test_twenty_tabs_load_and_end(context: BrowserContext, web: Web, nginx: Nginx, photos: Path) -> None:
    """Ten tabs upload, ten follow, all over one stream; the first is closed midway."""
    token = new_token()
    await context.add_init_script(f"localStorage.setItem('tryon.token', {json.dumps(token)});" + WATCH + WORKING)
    tabs = [
        await arrive(context, web, nginx.url, token, photos / "photo.jpg", uploads=number % 2 == 1)
        for number in range(TABS)
    ]
    for tab in tabs:
        await tab.says("Next in line" if tab is tabs[0] else re.compile(r"^\d+(st|nd|rd|th) in line$"))
    await all_are_live(tabs)
    await until(lambda: len(web.hub.owners) == 1)
    await until(lambda: time.time() - last_read(nginx) > 1)  # a tab that joins reads its session once
    claims = {}
    for tab in tabs:
        claim = await web.services.sessions.claims.begin(tab.session_id, worker="test")
        assert claim is not None
        claims[tab.session_id] = claim
    begun = time.time()
    await asyncio.gather(*(tab.says("Working on it") for tab in tabs))
    shown = {tab.session_id: await tab.page.evaluate("workingAt") for tab in tabs}
    print(f"twenty tabs were stale for at most {max(shown.values()) - begun:.2f} s")
    reads = [answer for answer in nginx.answers() if answer.began > begun + 0.01]
    early = [answer for answer in reads if answer.began < shown.get(answer.path.rpartition("/")[2], 0.0)]
    assert not early, "all of it was pushed, nothing polled"
    await tabs.pop(0).page.close()  # the leader
    await until(lambda: len(web.hub.owners) == 1)
    await all_are_live(tabs)
    for tab in tabs:
        await web.complete(claims[tab.session_id])
    await asyncio.gather(*(tab.says("Your result is ready") for tab in tabs))
    for tab in tabs:
        assert (await tab.page.evaluate("seen.steps")) == ["created", "processing", "completed"]
    await until(lambda: not followers(web))
    assert most_at_once([answer for answer in nginx.answers() if answer.path.endswith("/events")]) <= SLOTS
