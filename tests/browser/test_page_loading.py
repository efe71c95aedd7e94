"""Parts of the page that do not come, and come when they are asked for again.

Without a server: :class:`~testkit.page_scene.Scene` answers.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from playwright.async_api import Browser, Request, Route, expect

from testkit.page_scene import SOON_MS, Scene
from testkit.page_views import ID, LIMITS, SESSIONS, session
from tryon.protocol.paths import PROCESSOR

pytestmark = pytest.mark.xdist_group("chromium")

LOST: Final = "Part of this page could not be loaded"
OPEN: Final = """
(id) => {
  history.pushState(null, "", `/?s=${id}`);
  dispatchEvent(new PopStateEvent("popstate"));
}
"""


@pytest.fixture
async def scene(chromium: Browser) -> AsyncIterator[Scene]:
    """Make a page without a server; no error of a script may be left unhandled."""
    context = await chromium.new_context()
    page = await context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    made = Scene(page)
    await made.open()
    yield made
    await context.close()
    assert errors == []


async def lose(route: Route) -> None:
    await route.abort()


async def test_page_goes_on_after_a_lost_module(scene: Scene) -> None:
    """The upload goes on meanwhile; the same page then follows its session."""
    page, modules = scene.page, re.compile(r"/app/run\.")
    scene.session = session("created")
    scene.upload = (201, scene.session)
    await page.route(modules, lose)
    await scene.arrive()
    await scene.choose()
    await page.locator("#go").click()
    card = page.locator("#lost")
    await expect(card).to_contain_text(LOST, timeout=SOON_MS)
    await page.wait_for_url(f"**/?s={ID}")
    await page.evaluate("() => { window.same = true; }")
    scene.unreachable = True
    async with page.expect_event("requestfailed", lambda request: request.url.endswith("/limits")):
        await card.get_by_role("button", name="Try again").click()
    await expect(card.get_by_role("button", name="Try again")).to_be_focused()
    scene.unreachable = False
    await page.unroute(modules, lose)
    await card.get_by_role("button", name="Try again").click()
    await scene.says("3rd in line")
    await scene.chip("Live")
    await expect(card).to_be_hidden()
    assert await page.evaluate("window.same"), "without a reload"


async def test_open_session_survives_a_lost_module(scene: Scene) -> None:
    """Browsers that remember the loss load the page anew, from its address."""
    page, modules = scene.page, re.compile(r"/app/extras\.")
    scene.session = session("completed")
    await page.route(modules, lose)
    await scene.arrive(f"/?s={ID}")
    await expect(page.locator("#lost")).to_contain_text(LOST, timeout=SOON_MS)
    await page.unroute(modules, lose)
    await page.locator("#lost").get_by_role("button", name="Try again").click()
    await scene.says("Your result is ready")
    assert page.url.endswith(f"/?s={ID}")


async def test_buttons_name_missing_part_and_work_again(scene: Scene) -> None:
    """Share, the chip and the camera; a result is there without its slider."""
    page, modules = scene.page, re.compile(r"/app/(share|behind|compare|check|camera)\.")
    await page.route(modules, lose)
    await scene.arrive()
    await page.locator("[data-role=person]").get_by_role("button", name="Take a photo").click()
    await expect(page.get_by_role("alert")).to_contain_text(LOST, timeout=SOON_MS)
    await scene.choose()  # unjudged: the server judges them
    await scene.follow(session("completed"))
    for opener in (page.locator("#share"), page.locator("#chip")):
        await opener.click()
        await expect(page.locator("#note")).to_contain_text(LOST, timeout=SOON_MS)
    await page.unroute(modules, lose)
    shares: list[Request] = []
    page.on("request", lambda asked: shares.append(asked) if asked.url.endswith("/share") else None)
    await page.locator("#share").dblclick()
    await expect(page.get_by_role("dialog", name="Share the result")).to_be_visible(timeout=SOON_MS)
    assert len(shares) == 1, "a double click asks once"
    await expect(page.locator("#note")).to_be_hidden()
    await page.keyboard.press("Escape")
    await page.locator("#chip").click()
    await expect(page.get_by_role("heading", name="Behind the scenes")).to_be_focused()
    await expect(page.get_by_role("slider", name="Before and after")).to_be_visible(timeout=SOON_MS)


async def test_missing_result_is_asked_for_again(scene: Scene) -> None:
    """The page says so; the focus stays on the button until the picture is there."""
    page, pictures = scene.page, re.compile(r"/samples/after\.webp\?")
    await page.route(pictures, lose)
    await scene.follow(session("completed"))
    scene.unreachable = True
    card = page.locator("#lost")
    await expect(card).to_contain_text("The result could not be loaded", timeout=SOON_MS)
    again = card.get_by_role("button", name="Try again")
    async with page.expect_event("requestfailed", lambda asked: asked.url.split("?")[0].endswith(ID)):
        await again.click()
    await expect(again).to_be_focused()
    scene.unreachable = False
    await page.unroute(pictures, lose)
    await again.click()
    await expect(page.get_by_role("img", name="The try-on result")).to_be_visible(timeout=SOON_MS)
    await expect(card).to_be_hidden()


async def test_panel_shows_session_on_screen_alone(scene: Scene) -> None:
    """It holds no frame of another session, nor of one that was erased."""
    page, other = scene.page, ID[:-1] + "7"
    await scene.follow(session())
    await page.locator("#chip").click()
    rows = page.locator(".behind-list li")
    await expect(rows.filter(has_text="snapshot at 2")).to_have_count(1, timeout=SOON_MS)
    scene.session = session("created", session_id=other)
    await page.evaluate(OPEN, other)
    await expect(rows.filter(has_text="snapshot at 1")).to_have_count(1, timeout=SOON_MS)
    await expect(rows.filter(has_text="snapshot at 2")).to_have_count(0)
    await page.locator("#erase").click()
    await page.locator("#erase-dialog").get_by_role("button", name="Delete now").click()
    await scene.says("Everything was erased")
    await expect(page.locator(".behind-empty")).to_be_visible()
    await expect(rows).to_have_count(0)


async def test_role_has_place_for_each_picture(scene: Scene) -> None:
    """One after the other; the choosers take what the role and the server take."""
    page, bodies = scene.page, []
    scene.limits = LIMITS | {"formats": ["image/webp", "image/avif"]}
    role: dict[str, Any] = {"name": "person", "required": True, "count": 1, "formats": ["image/webp"], "hint": ""}
    roles = [role, role | {"name": "garment", "required": False, "count": 3, "formats": []}]

    async def describe(route: Route) -> None:
        await route.fulfill(json={"name": "made up", "roles": roles, "params_schema": {}, "privacy": ""})

    async def take(route: Route) -> None:
        bodies.append(route.request.post_data_buffer or b"")
        await route.fulfill(status=201, json=session("created"))

    await page.route(f"**{PROCESSOR}", describe)
    await page.route(f"**{SESSIONS}", take)
    await scene.arrive()
    person, garment = page.locator("#photo-input"), page.locator("#garment-input")
    await expect(person).to_have_attribute("accept", "image/webp,android/allow-camera", timeout=SOON_MS)
    await expect(garment).to_have_attribute("accept", "image/webp,image/avif,android/allow-camera")
    assert [await each.evaluate("(input) => input.multiple") for each in (person, garment)] == [False, True]
    samples = [f"static/samples/garment-{n}.webp" for n in (1, 2)]
    await garment.set_input_files(["static/favicon.svg", *samples])
    await expect(page.get_by_role("alert")).to_contain_text("SVG is not accepted here", timeout=SOON_MS)
    titles = page.locator(".zone-title")
    await expect(titles).to_have_text(["You", "Garment", "Garment 2", "Garment 3"], timeout=SOON_MS)
    await expect(page.get_by_alt_text("Chosen: garment 2")).to_be_visible()
    await page.get_by_role("button", name="Remove the garment").click()
    await expect(titles).to_have_text(["You", "Garment", "Garment 2"])
    await expect(page.get_by_alt_text("Chosen: the garment")).to_be_visible()
    await page.set_input_files("[data-role=garment-1] input[multiple]", samples[:1])
    await person.set_input_files("static/samples/before.webp")
    await expect(page.locator("#go")).to_have_attribute("aria-disabled", "false", timeout=SOON_MS)
    await page.locator("#go").click()
    await page.wait_for_url(f"**/?s={ID}")
    names = re.findall(rb'name="(\w+)"; filename="([\w.-]+)"', bodies[0])
    assert [(role.decode(), file.decode()) for role, file in names] == [
        ("person", "before.webp"),
        ("garment", "garment-2.webp"),
        ("garment", "garment-1.webp"),
    ]
