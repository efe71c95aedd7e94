"""Behind the scenes: the wire of a real session, the switches, and the lines of code.

And the chip, which says Live only where that is true.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from playwright.async_api import Browser, expect

from testkit.plugin import missing
from testkit.processes import run_program
from testkit.stack import Stack
from tests.browser.gate import open_gate
from tests.browser.visitor import DONE_MS, SESSIONS, Visitor, open_visitor

pytestmark = pytest.mark.xdist_group("chromium")

TOKEN: Final = "b" * 43
RUN_SECONDS: Final = 60


@pytest.fixture(scope="module")
async def slow_product(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Start one stack whose sessions run longer than the tests."""
    env = {"TRYON_PORT": "0", "TRYON_MOCK_SECONDS": "60", "TRYON_DRAIN_SECONDS": "0", "TRYON_UPLOAD_RATE": "off"}
    started = await Stack.open(tmp_path_factory.mktemp("behind"), "up", env=env)
    try:
        yield await started.ready()
    finally:
        await started.close()
        print(f"--- output of {started!r}\n{started.output}")


@pytest.fixture
async def watching(chromium: Browser, slow_product: Stack, photos: Path) -> AsyncIterator[Visitor]:
    """Open a visitor who follows a session behind the scenes."""
    async for someone in open_visitor(chromium, slow_product.url, photos):
        await follow(someone)
        await someone.page.locator("#chip").click()
        yield someone


async def follow(visitor: Visitor, word: str = "Live") -> None:
    """Make a session, open its page, and wait for the chip's word."""
    async with httpx.AsyncClient(base_url=visitor.url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        with (visitor.photos / "photo.jpg").open("rb") as file:
            made = (await client.post(SESSIONS, files={"image": ("photo.jpg", file)})).raise_for_status().json()
    await visitor.page.add_init_script(f"localStorage.setItem('tryon.token', '{TOKEN}')")
    await visitor.arrive(f"/?s={made['session_id']}")
    await says(visitor, word)


async def says(visitor: Visitor, word: str) -> None:
    """Wait until the chip says so."""
    await expect(visitor.page.locator("#chip-text")).to_have_text(word, timeout=DONE_MS)


async def test_cut_connection_recovers_before_the_eyes(watching: Visitor) -> None:
    """The panel shows the frames, the loss, and how long it took to be back."""
    page = watching.page
    panel = page.get_by_role("region", name="Behind the scenes")
    await expect(panel.get_by_role("heading", name="Behind the scenes")).to_be_focused()
    await expect(panel.locator("dd").first).to_have_text("WebSocket")
    await expect(panel.locator(".behind-list")).to_contain_text("snapshot at")
    await expect(panel.locator(".behind-list")).to_contain_text("progress", timeout=DONE_MS)
    await expect(panel.locator("dl")).to_contain_text(re.compile(r"Round trip(under 1 ms|\d+ ms|\d\.\d s)"))
    await expect(panel.get_by_role("button", name="Kill the worker")).to_be_hidden()
    await panel.get_by_role("button", name="Cut the connection").click()
    await expect(panel.locator(".behind-recovery")).to_have_text(
        re.compile(r"^Back after (\d+ ms|\d\.\d s|\d+ s) over WebSocket\. Nothing was missed\.$"), timeout=DONE_MS
    )
    await says(watching, "Live")
    await panel.locator("summary").last.click()
    await expect(panel.locator("details[open] pre")).to_contain_text('"type"')
    await page.keyboard.press("Escape")
    await expect(panel).to_be_hidden()
    await expect(page.locator("#chip")).to_be_focused()
    await expect(page.locator("#chip")).to_have_attribute("aria-expanded", "false")


@pytest.mark.slow
async def test_refused_sockets_leave_an_event_stream(watching: Visitor) -> None:
    """The page finds the next way, stays live, and returns when it may."""
    panel = watching.page.get_by_role("region", name="Behind the scenes")
    switch = panel.get_by_role("switch", name="Refuse WebSockets")
    await switch.click()
    await expect(switch).to_have_attribute("aria-checked", "true")
    await expect(panel.locator("dd").first).to_have_text("Event stream", timeout=DONE_MS)
    await says(watching, "Live")
    await expect(panel.locator(".behind-recovery")).to_contain_text("over Event stream")
    await panel.get_by_role("button", name="Cut the connection").click()
    await expect(panel.locator(".behind-recovery")).to_contain_text("2 times so far", timeout=DONE_MS)
    await switch.click()
    await panel.get_by_role("button", name="Cut the connection").click()
    await expect(panel.locator(".behind-recovery")).to_contain_text("3 times so far", timeout=DONE_MS)


@pytest.mark.slow
async def test_code_runs_as_it_is_copied(chromium: Browser, product: Stack, photos: Path, tmp_path: Path) -> None:
    """Each language follows the session to its end; only Copy has the token."""
    if shutil.which("curl") is None:
        missing("curl")
    async for visitor in open_visitor(chromium, product.url, photos):
        page = visitor.page
        await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await follow(visitor, "Finished")
        await page.locator("#chip").click()
        await page.get_by_role("tab", name="Wire").press("ArrowRight")
        lines = {}
        for name in ("curl", "JavaScript", "Python"):
            block = page.get_by_role("region", name=name, exact=True)
            await expect(block).to_contain_text(product.url)
            assert TOKEN not in await block.inner_text()
            await page.get_by_role("button", name=f"Copy the lines for {name}").click()
            await expect(page.get_by_role("log")).to_contain_text(f"Copied: {name}")
            lines[name] = await page.evaluate("navigator.clipboard.readText()")
        await page.get_by_role("switch", name="Show my token").click()
        await expect(page.get_by_role("region", name="Python")).to_contain_text(TOKEN)

        console = await page.context.new_cdp_session(page)
        async with page.expect_console_message(lambda line: "/api/tryon/files/outputs/" in line.text):
            typed = {"expression": lines["JavaScript"], "replMode": True, "awaitPromise": True}  # as the console does
            assert "exceptionDetails" not in await console.send("Runtime.evaluate", typed)
    (tmp_path / "curl").mkdir()
    shell = run_program("bash", "-ec", lines["curl"], seconds=RUN_SECONDS, folder=tmp_path / "curl")
    python = run_program(sys.executable, "-c", lines["Python"], seconds=RUN_SECONDS, folder=tmp_path)
    for status, output, errors in await asyncio.gather(shell, python):
        assert status == 0, errors
        assert "completed" in output
    results = [*(tmp_path / "curl").glob("result.*"), tmp_path / "result.jpg"]
    assert len({path.read_bytes() for path in results}) == 1


async def test_chip_and_reader_know_offline_device(chromium: Browser, slow_product: Stack, photos: Path) -> None:
    """At once, each once, and Live again when it is back."""
    async for visitor in open_visitor(chromium, slow_product.url, photos):
        visitor.expected.append("ERR_INTERNET_DISCONNECTED|WebSocket connection")
        await follow(visitor)
        await visitor.page.context.set_offline(True)
        await says(visitor, "Offline")
        log = visitor.page.get_by_role("log")
        await expect(log).to_contain_text("You are offline.", timeout=DONE_MS)
        await visitor.page.context.set_offline(False)
        await says(visitor, "Live")
        await expect(log).to_contain_text("Connected again.", timeout=DONE_MS)
        said = await log.locator("p").all_inner_texts()
        assert (
            len([line for line in said if "offline" in line]) == len([line for line in said if "again." in line]) == 1
        )


async def test_chip_doubts_a_silent_connection(chromium: Browser, slow_product: Stack, photos: Path) -> None:
    """A connection that swallows everything is found out, and another one made.

    The page's clock is moved on, instead of waiting.
    """
    port = int(slow_product.url.rsplit(":", 1)[1])
    async with open_gate(port) as gate:
        async for visitor in open_visitor(chromium, gate.url, photos):
            visitor.expected.append("WebSocket connection|ERR_")
            await visitor.page.clock.install()
            await follow(visitor)
            gate.swallow()
            await visitor.page.clock.run_for(7500)  # 5 s of silence, and 1 s without an answer
            await visitor.page.wait_for_function("() => seen.chip.includes('Checking')", timeout=DONE_MS)
            await visitor.page.clock.run_for(4000)
            await visitor.page.wait_for_function("() => seen.chip.includes('Reconnecting')", timeout=DONE_MS)
            await says(visitor, "Live")


HEADLINES: Final = """
() => {
  window.headlines = [];
  const headline = document.querySelector("#headline");
  const look = () => headlines.at(-1)?.[0] !== headline.textContent && headlines.push([headline.textContent, performance.now()]);
  new MutationObserver(look).observe(headline, { subtree: true, childList: true, characterData: true });
}
"""


@pytest.mark.slow
async def test_killed_worker_is_said_result_comes(chromium: Browser, tmp_path: Path, photos: Path) -> None:
    """A real worker process dies at a button of the panel; another one goes on."""
    env = {
        "TRYON_PORT": "0",
        "TRYON_DEMO": "yes",
        "TRYON_MOCK_SECONDS": "8",
        "TRYON_MOCK_FAILURE_RATE": "0",
        "TRYON_LEASE_SECONDS": "2",
    }
    started = await Stack.open(tmp_path, "up", env=env)
    try:
        await started.ready()
        async for visitor in open_visitor(chromium, started.url, photos):
            await visitor.arrive()
            await visitor.try_on()
            page = visitor.page
            await expect(page.locator("body")).to_have_attribute("data-status", "processing", timeout=DONE_MS)
            await page.evaluate(HEADLINES)
            await page.locator("#chip").click()
            await page.get_by_role("button", name="Kill the worker").click()
            await expect(page.locator(".behind-said")).to_have_text(
                "The worker is killed. Another one starts your try-on again.", timeout=DONE_MS
            )
            await started.line("SIGKILL")
            await page.wait_for_function(
                "() => headlines.some(([words]) => words === 'Interrupted, starting again (2 of 3)')", timeout=DONE_MS
            )
            await visitor.sees_result()
            headlines = await page.evaluate("headlines")
            at = [words for words, _ in headlines].index("Interrupted, starting again (2 of 3)")
            assert headlines[at + 1][1] - headlines[at][1] >= 1900
    finally:
        await started.close()
        print(f"--- output of {started!r}\n{started.output}")
