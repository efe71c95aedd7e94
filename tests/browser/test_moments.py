"""Choose, wait and see, with the test as the worker and its processor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from server.domain.tokens import new_token
from testkit.fixtures import StartStack
from testkit.running import Web
from tests.browser.visitor import DONE_MS, SESSIONS, Visitor
from tryon.protocol.paths import PROCESSOR

pytestmark = pytest.mark.xdist_group("chromium")

ROLES: Final = [
    {
        "name": "person",
        "required": True,
        "count": 1,
        "formats": ["image/jpeg"],
        "max_bytes": 10**7,
        "max_pixels": 10**8,
    },
    {"name": "garment", "required": True, "count": 1, "formats": [], "max_bytes": 10**7, "max_pixels": 10**8},
    {"name": "shoes", "required": False, "count": 1, "formats": [], "max_bytes": 10**7, "max_pixels": 10**8},
]
SCHEMA: Final = {
    "properties": {
        "strength": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
        "fit": {"enum": ["loose", "tight"], "default": "loose"},
        "mirror": {"type": "boolean", "default": False, "title": "Mirror it"},
        "steps": {"type": "integer", "minimum": 1},
    }
}
DESCRIBED: Final = {
    "name": "made up",
    "roles": [{"hint": "One person, seen from the front", **role} for role in ROLES],
    "params_schema": SCHEMA,
    "privacy": "The photo goes to the moon.",
    "typical_seconds": 4.0,
}


INTERRUPTED: Final = "Interrupted, starting again (2 of 3)"


async def opened(context: BrowserContext, web: Web, photos: Path) -> tuple[Page, str]:
    """Open the page of a session with a photo and a garment; it waits.

    The test may move the page's clock.
    """
    token = new_token()
    with (photos / "photo.jpg").open("rb") as person, (photos / "garment.png").open("rb") as garment:
        files = {"person": ("a.jpg", person), "garment": ("b.png", garment)}
        answer = await web.client.post(SESSIONS, files=files, headers={"Authorization": f"Bearer {token}"})
    session_id: str = answer.raise_for_status().json()["session_id"]
    page = await context.new_page()
    await page.clock.install()
    await context.add_init_script(f"localStorage.setItem('tryon.token', {json.dumps(token)})")
    await page.goto(f"http://127.0.0.1:{web.port}/?s={session_id}")
    return page, session_id


async def says(page: Page, words: str | re.Pattern[str]) -> None:
    await expect(page.locator("#headline")).to_have_text(words, timeout=DONE_MS)


async def test_interruption_is_said_and_nothing_falls(context: BrowserContext, web: Web, photos: Path) -> None:
    """It stays for two seconds, however soon the next attempt begins.

    The page's clock stands still but where the test moves it.
    """
    page, session_id = await opened(context, web, photos)
    claims = web.services.sessions.claims
    await says(page, "Next in line")
    claim = await claims.begin(session_id, worker="one")
    assert claim is not None
    await claims.report(claim, progress=0.7, stage="rendering")
    await says(page, "Rendering")
    await page.evaluate(
        """() => {
            window.seen = [];
            const bar = document.querySelector("#bar");
            const look = () => seen.push([document.querySelector("#headline").textContent, bar.getAttribute("aria-valuenow")]);
            const everything = { subtree: true, childList: true, attributes: true };
            new MutationObserver(look).observe(document.querySelector("#under"), everything);
        }"""
    )
    await page.clock.pause_at(await page.evaluate("Date.now()") / 1000 + 0.5)
    assert await claims.requeue(claim, burnt=True, reason="worker_lost")
    claim = await claims.begin(session_id, worker="two")
    assert claim is not None
    await claims.report(claim, progress=0.1, stage="reading")
    await says(page, INTERRUPTED)
    await expect(page.locator("body")).to_have_attribute("data-status", "processing", timeout=DONE_MS)
    await page.clock.run_for(1900)
    assert await page.locator("#headline").inner_text() == INTERRUPTED
    await page.clock.run_for(200)
    await says(page, "Reading")
    seen = await page.evaluate("seen")
    assert [bar for words, bar in seen if words == INTERRUPTED] != [], "what the page showed was noted"
    assert {bar for words, bar in seen if words == INTERRUPTED} == {None}, "the bar says nothing meanwhile"
    assert seen[-1] == ["Reading", "10"]


async def test_late_session_goes_on_without_its_page(context: BrowserContext, web: Web, photos: Path) -> None:
    """It may be closed, says the page; opened again, it has the result."""
    page, session_id = await opened(context, web, photos)
    claim = await web.services.sessions.claims.begin(session_id, worker="one")
    assert claim is not None
    await says(page, "Working on it")
    time = page.locator("#meta-time")
    await expect(time).not_to_contain_text("longer")
    await page.clock.fast_forward("03:00")
    await expect(time).to_have_text("Taking longer than usual. You can close this page.", timeout=DONE_MS)
    address = page.url
    await page.close()
    await web.complete(claim)
    page = await context.new_page()
    await page.goto(address)
    await says(page, "Your result is ready")


async def test_offline_is_said_at_once(context: BrowserContext, web: Web, photos: Path) -> None:
    """The chip and the line say it, and take it back."""
    page, _ = await opened(context, web, photos)
    await expect(page.locator("#chip-text")).to_have_text("Live", timeout=DONE_MS)
    await context.set_offline(True)
    await expect(page.locator("#chip-text")).to_have_text("Offline", timeout=DONE_MS)
    await expect(page.locator("#meta-time")).to_have_text("You are offline. It goes on without you.")
    await context.set_offline(False)
    await expect(page.locator("#chip-text")).to_have_text("Live", timeout=DONE_MS)


async def test_broken_garment_is_named_photo_kept(context: BrowserContext, web: Web, photos: Path) -> None:
    """The next step is another garment; the photo is not sent again."""
    page, session_id = await opened(context, web, photos)
    claims = web.services.sessions.claims
    claim = await claims.begin(session_id, worker="one")
    assert claim is not None
    assert await claims.fail(claim, "garment_not_found")
    await says(page, "The garment was not found")
    await expect(page.locator("#message")).to_contain_text("No garment was found in its picture.")
    await expect(page.get_by_role("img", name="Your photo")).to_be_visible()
    await page.get_by_role("button", name="Choose another garment").click()
    await expect(page.get_by_alt_text("Chosen: your photo")).to_be_visible()
    await expect(page.get_by_alt_text("Chosen: the garment")).to_be_hidden()
    await expect(page.locator("#garment-input")).to_be_focused()
    await page.set_input_files("#garment-input", photos / "garment.png")
    async with page.expect_response(lambda answer: answer.request.method == "POST") as sent:
        await expect(page.locator("#go")).to_have_attribute("aria-disabled", "false")
        await page.locator("#go").click()
    made = await (await sent.value).json()
    assert made["copy_of"] == session_id
    assert [each["role"] for each in made["inputs"]] == ["person", "garment"]


async def test_processor_names_slots_and_options(visitor: Visitor) -> None:
    """Parameters are sent where they differ from the defaults."""
    page, sent = visitor.page, []

    async def describe(route: Route) -> None:
        await route.fulfill(body=json.dumps(DESCRIBED), content_type="application/json")

    async def take(route: Route) -> None:
        if route.request.method == "POST":
            sent.append(route.request.post_data_buffer or b"")
            problem: dict[str, Any] = {"code": "unreadable_image", "title": "…", "part": "shoes", "retryable": False}
            await route.fulfill(status=422, body=json.dumps(problem), content_type="application/problem+json")
        else:
            await route.fallback()

    visitor.expected.append("422")
    await page.route(f"**{PROCESSOR}", describe)
    await page.route(f"**{SESSIONS}", take)
    await visitor.arrive()
    await expect(page.locator(".zone-title")).to_have_text(["You", "Garment", "Shoes"])
    await expect(page.locator("#privacy")).to_contain_text("The photo goes to the moon.")
    await expect(page.locator("#photo-hint")).to_have_text("One person, seen from the front")

    await visitor.choose("photo.webp")
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("WebP is not accepted here")
    await alert.get_by_role("button", name=re.compile("^(Shrink|Convert): ")).click()
    await expect(page.get_by_alt_text("Chosen: your photo")).to_be_visible()
    await expect(page.locator("#go")).to_have_text("Now add the garment")
    await page.locator("#go").click(force=True)
    await expect(page.locator("#garment-input")).to_be_focused()
    await visitor.choose("garment.png", "#garment-input")
    await visitor.choose("garment.png", "[data-role=shoes] input[accept*=webp]")

    await page.get_by_text("Options").click()
    await page.get_by_label("Mirror it").check()
    await page.get_by_label("Fit").select_option(label="Tight")
    await page.get_by_label("Strength").fill("0.7")
    await page.get_by_label("Strength").fill("0.5")
    await visitor.go()
    await visitor.says("The shoes picture is damaged")
    await expect(page.get_by_role("button", name="Choose another shoes picture")).to_be_visible()
    (body,) = sent
    assert body.count(b"filename=") == 3
    assert json.loads(body.split(b'name="params"')[1].split(b"\r\n\r\n")[1].split(b"\r\n")[0]) == {
        "mirror": True,
        "fit": "tight",
    }


COPY: Final = """
async (src) => {
  const image = new Image();
  image.src = src;
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: 300, height: 400 });
  canvas.getContext("2d").drawImage(image, 0, 0, 300, 400);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
}
"""


async def test_samples_and_clipboard_fill_slots(visitor: Visitor) -> None:
    """And emptied; a missing camera or picture is said in words."""
    page, alert = visitor.page, visitor.page.get_by_role("alert")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write", "camera"])
    await page.clock.install()
    await visitor.arrive()
    person, garment = page.locator("[data-role=person]"), page.locator("[data-role=garment]")
    await person.get_by_role("button", name="Take a photo").click()
    await expect(alert).to_contain_text("camera")
    await page.evaluate("navigator.clipboard.writeText('no picture')")
    await person.get_by_role("button", name="Paste a picture").click()
    await expect(alert).to_contain_text("There is no picture on the clipboard.")
    await person.get_by_role("button", name="Use sample 2: person").click()
    await expect(page.get_by_alt_text("Chosen: your photo")).to_be_visible()
    await expect(alert).to_be_hidden()
    await page.evaluate(COPY, "/static/samples/garment-1.webp")
    await garment.get_by_role("button", name="Paste a picture").click()
    await expect(page.get_by_alt_text("Chosen: the garment")).to_be_visible()
    await garment.get_by_role("button", name="Remove the garment").click()
    await expect(page.get_by_alt_text("Chosen: the garment")).to_be_hidden()
    await expect(page.locator("#garment-input")).to_be_focused()
    await garment.get_by_role("button", name="Use sample 1: garment").click()
    await visitor.go()
    await visitor.sees_result()
    await page.get_by_role("button", name="Replay").click()
    await expect(page.locator("#meta-time")).to_have_text(re.compile(r"^(Sent|Started) · "))
    await page.clock.run_for(6000)
    await expect(page.locator("#meta-time")).to_have_text(re.compile(r"^in "), timeout=DONE_MS)


async def test_result_can_be_shared_without_the_photo(chromium: Browser, visitor: Visitor) -> None:
    """The link opens in another browser, and shows the result alone."""
    page = visitor.page
    await visitor.arrive()
    await visitor.try_on()
    await visitor.sees_result()
    await page.get_by_role("button", name="Share").click()
    dialog = page.get_by_role("dialog", name="Share the result")
    await expect(dialog).to_contain_text(re.compile(r"It ends in 2[34] hours"))
    link = await dialog.get_by_label("Link to the result").input_value()
    await dialog.get_by_role("button", name="Close").click()
    stranger = await chromium.new_context()
    answer = await (await stranger.new_page()).goto(link)
    assert answer is not None and answer.ok
    assert answer.headers["content-type"].startswith("image/")
    await stranger.close()


@pytest.mark.slow
async def test_result_that_expires_says_so(elsewhere: Visitor, stack: StartStack) -> None:
    """While the page shows it."""
    elsewhere.expected.append("404")
    elsewhere.url = (await stack(TRYON_MOCK_SECONDS="0.2", TRYON_RETENTION_SECONDS="15")).url
    await elsewhere.arrive()
    await elsewhere.try_on()
    await elsewhere.sees_result()
    await expect(elsewhere.page.locator("#headline")).to_have_text("This result has expired", timeout=60_000)
