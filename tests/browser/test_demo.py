"""The demo page in a real Chromium: a photo on its way to its result.

Each test ends with a look at the browser's console: no error that the test did not
announce, no violation of the page's Content-Security-Policy.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from PIL import Image
from playwright.async_api import expect

if TYPE_CHECKING:
    from testkit.fixtures import StartStack


from tests.browser.visitor import DONE_MS, SESSIONS, Visitor, session

pytestmark = pytest.mark.xdist_group("chromium")


# --- the main job ---------------------------------------------------------------------


async def test_photo_is_followed_live_to_result(unhurried: Visitor, tmp_path: Path) -> None:
    """The chip, the steps and the headline follow every event."""
    await unhurried.arrive()
    await expect(unhurried.page).to_have_title("TryOn Push")
    await unhurried.try_on()
    await unhurried.sees_result()

    seen = await unhurried.seen()
    assert seen["said"][:2] == ["Your photo is added. Ready.", "Uploading your photo"]
    assert seen["said"][-1] == "Your result is ready"
    assert len(seen["said"]) > 3, "the stages between are said too"
    assert seen["steps"] == ["created", "processing", "completed"]
    assert [state for state in seen["chip"] if state != "Connecting"] == ["Live", "Finished"]

    async with unhurried.page.expect_download() as download:
        await unhurried.page.get_by_role("link", name="Save").click()
    saved = tmp_path / "result"
    await (await download.value).save_as(saved)
    with Image.open(saved) as picture:
        picture.load()
        assert picture.width >= 64
    assert re.fullmatch(r"try-on-[0-9a-f]{6}\.(jpg|png|webp)", (await download.value).suggested_filename)


@pytest.mark.parametrize("name", ["photo.webp", "garment.png", "large.jpg"])
async def test_every_photo_reaches_its_result(visitor: Visitor, name: str) -> None:
    """Also large ones, and those with transparency."""
    await visitor.arrive()
    await visitor.try_on(name)
    await visitor.sees_result()
    await expect(visitor.page.get_by_role("img", name="Your photo")).to_be_visible()


HAND_OVER = """
async ([kind, target, name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const element = document.querySelector(target);
  const options = { bubbles: true, cancelable: true };
  if (kind === "paste") {
    element.dispatchEvent(new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
  } else {
    for (const step of ["dragenter", "dragover", "drop"]) {
      element.dispatchEvent(new DragEvent(step, { ...options, dataTransfer: transfer }));
    }
  }
}
"""


async def hand_over(visitor: Visitor, kind: str, target: str, path: Path, media_type: str) -> None:
    data = base64.b64encode(path.read_bytes()).decode()
    await visitor.page.evaluate(HAND_OVER, [kind, target, path.name, media_type, data])


@pytest.mark.parametrize(("kind", "target"), [("drop", "#photo-zone"), ("drop", "footer"), ("paste", "body")])
async def test_photo_can_be_dropped_or_pasted(visitor: Visitor, kind: str, target: str) -> None:
    """Anywhere on the page; nothing is sent before the button is pressed."""
    await visitor.arrive()
    await hand_over(visitor, kind, target, visitor.photos / "photo.jpg", "image/jpeg")
    await expect(visitor.page.get_by_alt_text("Chosen: your photo")).to_be_visible()
    assert visitor.uploads == []
    await visitor.go()
    await visitor.sees_result()
    assert len(visitor.uploads) == 1


async def test_garment_dropped_first_travels_along(visitor: Visitor) -> None:
    """The upload has both."""
    await visitor.arrive()
    await hand_over(visitor, "drop", "#garment-zone", visitor.photos / "garment.png", "image/png")
    await expect(visitor.page.get_by_alt_text("Chosen: the garment")).to_be_visible()
    assert visitor.uploads == []
    await visitor.try_on()
    await visitor.sees_result()
    assert (await session(visitor))["links"]["garment"]


async def test_next_garment_uploads_no_second_photo(visitor: Visitor) -> None:
    """The photo of the session on the screen is copied by the server."""
    await visitor.arrive()
    await visitor.try_on()
    await visitor.sees_result()
    first = await session(visitor)
    await visitor.page.get_by_role("button", name="Another garment").click()
    await expect(visitor.page.get_by_alt_text("Chosen: your photo")).to_be_visible()
    await visitor.choose("garment.png", "#garment-input")
    await visitor.go()
    await visitor.page.wait_for_function("() => location.search.startsWith('?s=')")
    second = await session(visitor)
    assert second["copy_of"] == first["session_id"]
    assert [each["role"] for each in second["inputs"]] == ["person", "garment"]
    await visitor.sees_result()


async def test_result_says_when_it_is_erased(visitor: Visitor) -> None:
    """The time is that of the session's expiry, promised before."""
    await visitor.arrive()
    await expect(visitor.page.locator("#promise")).to_have_text("Gone in 24 hours.")
    await visitor.try_on()
    await visitor.sees_result()
    await expect(visitor.page.locator("#keeps")).to_have_text(
        re.compile(r"^Erased tomorrow at \d\d:\d\d, in 2[34] hours")
    )
    await expect(visitor.page.get_by_role("link", name="API documentation")).to_have_attribute("href", "/api/docs")


# --- coming back ----------------------------------------------------------------------


async def test_reload_resumes_running_session(unhurried: Visitor) -> None:
    """No second upload is made."""
    await unhurried.arrive()
    await unhurried.try_on()
    await expect(unhurried.page.locator("#chip-text")).to_have_text("Live", timeout=DONE_MS)
    before = (await unhurried.session_id(), await unhurried.token())
    await unhurried.page.reload()
    await unhurried.sees_result()
    assert (await unhurried.session_id(), await unhurried.token()) == before
    assert len(unhurried.uploads) == 1
    await expect(unhurried.page.get_by_role("img", name="Your photo")).to_be_visible()


async def test_back_and_reload_do_what_people_expect(visitor: Visitor) -> None:
    """The address says which session is shown."""
    page, hello = visitor.page, visitor.page.get_by_role("heading", name="See it on you.")
    await visitor.arrive()
    await visitor.try_on()
    await visitor.sees_result()
    address = page.url
    await page.reload()
    await visitor.sees_result()
    await page.get_by_role("button", name="New photo").click()
    await expect(hello).to_be_visible()
    assert urlsplit(page.url).query == ""
    await page.reload()
    await expect(hello).to_be_visible()
    await page.go_back()
    await visitor.sees_result()
    assert page.url == address
    await page.go_back()
    await expect(hello).to_be_visible()
    await page.go_forward()
    await visitor.sees_result()
    assert len(visitor.uploads) == 1


async def upload_elsewhere(visitor: Visitor) -> tuple[str, str]:
    """Make a session as curl does; return its id and a ticket for it."""
    async with httpx.AsyncClient(base_url=visitor.url) as client:
        with (visitor.photos / "photo.jpg").open("rb") as file:
            made = (await client.post(SESSIONS, files={"image": ("photo.jpg", file)})).raise_for_status().json()
    return made["session_id"], parse_qs(urlsplit(made["links"]["ws"]).query)["ticket"][0]


async def test_ticket_link_shows_session_read_only(visitor: Visitor) -> None:
    """A session that curl made can be seen, not changed."""
    session_id, ticket = await upload_elsewhere(visitor)
    await visitor.arrive(f"/#session={session_id}&ticket={ticket}")
    await expect(visitor.page.get_by_text("It is read-only.")).to_be_visible()
    await visitor.sees_result()
    await visitor.page.get_by_role("button", name="Replay").click()
    await expect(visitor.page.locator("#meta-time")).to_have_text(re.compile(r"^(Sent|Started) · "))
    for name in ("Try again", "New photo", "Choose another photo", "Cancel", "Delete now"):
        await expect(visitor.page.get_by_role("button", name=name)).to_have_count(0)
    await expect(visitor.page.locator("#photo-input")).to_be_hidden()
    assert await visitor.token() is None, "no token is made or sent for another owner's session"
    assert not [request for request in visitor.requests if "authorization" in request.headers]

    await visitor.page.get_by_role("link", name="Make your own").click()
    await expect(visitor.page.get_by_role("heading", name="See it on you.")).to_be_visible()
    assert urlsplit(visitor.page.url).fragment == ""


async def test_changed_hash_shows_other_session(visitor: Visitor) -> None:
    """Without a reload."""
    visitor.expected.append("401|404")  # the browser itself logs refused requests
    session_id, ticket = await upload_elsewhere(visitor)
    await visitor.arrive()
    await visitor.page.evaluate("(hash) => { location.hash = hash; }", f"session={session_id}&ticket={ticket}")
    await visitor.sees_result()
    await visitor.page.evaluate("(hash) => { location.hash = hash; }", f"session={session_id}&ticket=forged")
    await visitor.says(re.compile("There is nothing here|This link has expired"))
    await expect(visitor.page.get_by_role("img", name="Your photo")).to_be_hidden()


# --- having a say ---------------------------------------------------------------------


async def test_waiting_session_shows_place_and_cancel(elsewhere: Visitor, stack: StartStack) -> None:
    """The place in the queue, the time to the end, and a button."""
    elsewhere.url = (await stack(TRYON_MOCK_SECONDS="5", TRYON_WORKER_JOBS="1", TRYON_DRAIN_SECONDS="0")).url
    await elsewhere.arrive()
    await elsewhere.try_on()
    await elsewhere.sees_result()  # from here on the server knows how long it takes
    await elsewhere.page.get_by_role("button", name="New photo").click()
    await elsewhere.choose("photo.jpg")
    await expect(elsewhere.page.locator("#go")).to_have_attribute("aria-disabled", "false", timeout=DONE_MS)
    await upload_elsewhere(elsewhere)
    await upload_elsewhere(elsewhere)
    await elsewhere.go()
    await elsewhere.says("2nd in line")
    await expect(elsewhere.page.locator("#meta-time")).to_have_text(re.compile(r"^usually \d+–\d+ s$"))
    await elsewhere.says("Next in line")
    await elsewhere.page.get_by_role("button", name="Cancel", exact=True).click()
    await elsewhere.says("Cancelled")
    await expect(elsewhere.page.get_by_role("button", name="Try again")).to_be_visible()
    await expect(elsewhere.page.get_by_role("button", name="Cancel", exact=True)).to_be_hidden()


async def test_running_session_can_be_cancelled_and_retried(elsewhere: Visitor, stack: StartStack) -> None:
    """The same photo runs again."""
    elsewhere.url = (await stack(TRYON_MOCK_SECONDS="30", TRYON_DRAIN_SECONDS="0")).url
    await elsewhere.arrive()
    await elsewhere.try_on()
    body = elsewhere.page.locator("body")
    for _ in range(2):
        await expect(body).to_have_attribute("data-status", "processing", timeout=DONE_MS)
        await elsewhere.page.get_by_role("button", name="Cancel", exact=True).click()
        await elsewhere.says("Cancelled")
        await expect(elsewhere.page.get_by_role("img", name="Your photo")).to_be_visible()
        await elsewhere.page.get_by_role("button", name="Try again").click()
    await expect(body).to_have_attribute("data-status", "processing", timeout=DONE_MS)


async def test_deleted_photo_leaves_verifiable_receipt(visitor: Visitor, tmp_path: Path) -> None:
    """The downloaded file verifies with the public key."""
    page = visitor.page
    await visitor.arrive()
    await visitor.try_on()
    await visitor.sees_result()
    session_id, token = await visitor.session_id(), await visitor.token()
    await page.get_by_role("button", name="Delete now").click()
    await page.get_by_role("button", name="Keep it").click()
    await visitor.says("Your result is ready")
    await page.get_by_role("button", name="Delete now").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete now").click()
    await visitor.says("Everything was erased")
    await expect(page.locator("#headline")).to_be_focused()
    await expect(page.get_by_role("list", name="Receipt")).to_be_hidden()
    await page.get_by_text("Details").click()
    await expect(page.get_by_role("list", name="Receipt").get_by_role("listitem")).to_have_text(
        [re.compile("^Photo"), re.compile("^Result"), re.compile("^Signed")]
    )
    await expect(page.locator("#message")).to_contain_text("2 files were deleted")
    await expect(page.get_by_role("img", name="Your photo")).to_be_hidden()

    async with page.expect_download() as download:
        await page.get_by_role("button", name="Save receipt").click()
    await (await download.value).save_as(tmp_path / "receipt.json")
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert receipt["session_id"] == session_id
    async with httpx.AsyncClient(base_url=visitor.url) as client:
        (key, *_) = (await client.get("/api/tryon/receipt-key")).json()["keys"]
        gone = await client.get(f"{SESSIONS}/{session_id}", headers={"Authorization": f"Bearer {token}"})
    assert gone.status_code == 404
    body = {name: value for name, value in receipt.items() if name not in ("key_id", "signature")}
    signed = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    Ed25519PublicKey.from_public_bytes(unpadded(key["public_key"])).verify(unpadded(receipt["signature"]), signed)

    await page.get_by_role("button", name="New photo").click()
    await page.reload()
    await expect(page.get_by_role("heading", name="See it on you.")).to_be_visible()


async def test_question_ends_with_its_session(visitor: Visitor) -> None:
    """A question left by Back is not answered for the session that comes next."""
    page = visitor.page
    await visitor.arrive()
    await visitor.try_on()
    await visitor.sees_result()
    await page.get_by_role("button", name="Delete now").click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.go_back()
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await page.go_forward()
    await visitor.sees_result()
    assert "DELETE" not in [request.method for request in visitor.requests]


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def test_running_session_can_be_deleted(elsewhere: Visitor, stack: StartStack) -> None:
    """The page says that it is gone."""
    elsewhere.url = (await stack(TRYON_MOCK_SECONDS="30", TRYON_DRAIN_SECONDS="0")).url
    await elsewhere.arrive()
    await elsewhere.try_on()
    await expect(elsewhere.page.locator("body")).to_have_attribute("data-status", "processing", timeout=DONE_MS)
    await elsewhere.page.get_by_role("button", name="Delete now").click()
    await elsewhere.page.get_by_role("dialog").get_by_role("button", name="Delete now").click()
    await elsewhere.says("Everything was erased")


async def test_recent_sessions_can_be_opened_again(visitor: Visitor) -> None:
    """From the list below."""
    page = visitor.page
    await visitor.arrive()
    await expect(page.get_by_role("heading", name="My try-ons")).to_be_hidden()
    await visitor.try_on()
    await visitor.sees_result()
    first = await visitor.session_id()
    await page.get_by_role("button", name="New photo").click()
    await page.get_by_role("button", name=re.compile("^Your result is ready, from today at ")).click()
    await visitor.sees_result()
    assert await visitor.session_id() == first
    assert len(visitor.uploads) == 1
