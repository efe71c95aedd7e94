"""The demo page when a session fails or an upload is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.async_api import expect

if TYPE_CHECKING:
    from testkit.fixtures import StartStack


from tests.browser.visitor import SESSIONS, Visitor, session

pytestmark = pytest.mark.xdist_group("chromium")


# --- when it does not work out --------------------------------------------------------


async def test_failed_session_can_be_retried(elsewhere: Visitor, stack: StartStack) -> None:
    """It says why, and needs no second upload."""
    elsewhere.url = (await stack(TRYON_MOCK_FAILURE_RATE="1")).url
    await elsewhere.arrive()
    await elsewhere.try_on()
    await elsewhere.says("That did not work out")
    await expect(elsewhere.page.get_by_text("The try-on did not work out this time.").first).to_be_visible()
    first = await elsewhere.session_id()

    await elsewhere.page.reload()  # the file is gone from the page now, the server still has it
    await elsewhere.says("That did not work out")
    await elsewhere.page.get_by_role("button", name="Try again").click()
    await elsewhere.page.wait_for_url(lambda url: first is not None and first not in url)
    await elsewhere.says("That did not work out")
    assert (await session(elsewhere))["retry_of"] == first
    assert [urlsplit(request.url).path for request in elsewhere.uploads] == [SESSIONS, f"{SESSIONS}/{first}/retry"]


@pytest.mark.slow
async def test_refused_retry_counts_down(elsewhere: Visitor, stack: StartStack) -> None:
    """The failed session stays on the page."""
    elsewhere.expected.append("429")
    elsewhere.url = (await stack(TRYON_MOCK_FAILURE_RATE="1", TRYON_UPLOAD_RATE="1/minute")).url
    await elsewhere.arrive()
    await elsewhere.try_on()
    await elsewhere.says("That did not work out")
    await elsewhere.page.get_by_role("button", name="Try again").click()
    await elsewhere.says("One moment, please")
    await expect(elsewhere.page.get_by_role("button", name=re.compile(r"Try again in \d+ s"))).to_be_visible()
    await expect(elsewhere.page.get_by_role("img", name="Your photo")).to_be_visible()


async def test_text_file_is_refused_with_words(visitor: Visitor, tmp_path: Path) -> None:
    """Before and after the upload."""
    visitor.expected.append("422")
    await visitor.arrive()
    notes = tmp_path / "notes.txt"
    notes.write_text("milk, eggs")
    await visitor.page.set_input_files("#photo-input", notes)
    await expect(visitor.page.get_by_role("alert")).to_contain_text("“notes.txt” is not a picture")
    assert visitor.uploads == []

    disguised = notes.rename(tmp_path / "notes.jpg")
    await visitor.page.set_input_files("#photo-input", disguised)
    await expect(visitor.page.get_by_role("alert")).to_contain_text("“notes.jpg” is not a picture")
    await expect(visitor.page.locator("#go")).to_have_attribute("aria-disabled", "true")

    disguised.write_bytes(b"\xff\xd8\xff\xe0 but nothing else")
    await visitor.page.set_input_files("#photo-input", disguised)
    await expect(visitor.page.get_by_role("alert")).to_contain_text("Your photo looks damaged")
    await visitor.page.get_by_role("button", name="Send it anyway").click()
    await visitor.go()
    await visitor.says("That photo is damaged")
    await expect(visitor.page.get_by_role("button", name="Try again")).to_have_count(0)
    await visitor.page.get_by_role("button", name="Choose another photo").click()
    await visitor.try_on()
    await visitor.sees_result()


async def test_oversized_photo_is_shrunk_on_page(elsewhere: Visitor, stack: StartStack) -> None:
    """The words say the limit of this server; nothing is sent before the photo fits."""
    elsewhere.url = (await stack(TRYON_IMAGE_MAX_BYTES="20000")).url
    await elsewhere.arrive()
    await elsewhere.choose("photo.jpg")
    alert = elsewhere.page.get_by_role("alert")
    await expect(alert).to_contain_text("Your photo is too large")
    await expect(alert).to_contain_text(re.compile(r"at most 20 kB is allowed"))
    assert elsewhere.uploads == []
    await alert.get_by_role("button", name=re.compile(r"^Shrink: \d+ kB → \d+ kB$")).click()
    await expect(alert).to_be_hidden()
    await elsewhere.go()
    await elsewhere.sees_result()


async def test_rate_limited_upload_counts_down(elsewhere: Visitor, stack: StartStack) -> None:
    """The photo goes by itself afterwards."""
    elsewhere.expected.append("429")
    elsewhere.url = (await stack(TRYON_UPLOAD_RATE="1/minute")).url
    await elsewhere.arrive()
    await elsewhere.try_on()
    await elsewhere.sees_result()
    await elsewhere.page.get_by_role("button", name="New photo").click()
    await elsewhere.try_on()
    await elsewhere.says("One moment, please")
    again = elsewhere.page.get_by_role("button", name=re.compile(r"Try again in \d+ s"))
    await expect(again).to_have_attribute("aria-disabled", "true")
    sent = len(elsewhere.uploads)
    await again.click(force=True)
    assert len(elsewhere.uploads) == sent


async def test_small_photo_is_refused_with_words(visitor: Visitor, tmp_path: Path) -> None:
    """With the smallest size, before it is sent."""
    await visitor.arrive()
    Image.new("RGB", (20, 20)).save(tmp_path / "tiny.png")
    await visitor.page.set_input_files("#photo-input", tmp_path / "tiny.png")
    await expect(visitor.page.get_by_role("alert")).to_contain_text(re.compile(r"too small.*64 a side", re.DOTALL))
    await expect(visitor.page.locator("#go")).to_have_attribute("aria-disabled", "true")
    assert visitor.uploads == []


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (503, "queue_full", "Very busy right now"),
        (503, "unavailable", "Not available right now"),
        (507, "storage_full", "No room right now"),
        (500, "internal_error", "Internal error"),
    ],
)
async def test_unavailable_service_offers_retry(visitor: Visitor, status: int, code: str, words: str) -> None:
    """Each refusal has its own words."""
    visitor.expected.append(str(status))
    problem = {"code": code, "title": "Internal error", "detail": "…", "retryable": True, "request_id": "abc-1"}
    headers = {"Retry-After": "0", "Content-Type": "application/problem+json"}
    await visitor.arrive()
    await visitor.page.route(
        f"**{SESSIONS}", lambda route: route.fulfill(status=status, body=json.dumps(problem), headers=headers), times=1
    )
    await visitor.try_on()
    await visitor.says(words)
    await expect(visitor.page.locator("#reference")).to_have_text("Reference: abc-1")
    again = visitor.page.get_by_role("button", name="Try again", exact=True)
    await expect(again).to_have_attribute("aria-disabled", "false")
    await again.click()
    await visitor.sees_result()


async def test_refused_upload_says_which_limit(visitor: Visitor) -> None:
    """The words are those of the limit, not those of too many photos at a time."""
    visitor.expected.append("429")
    problem = {"code": "rate_limited", "title": "Rate limited", "detail": "…", "limit": "stored_bytes_per_owner"}
    await visitor.arrive()
    await visitor.page.route(
        f"**{SESSIONS}",
        lambda route: route.fulfill(status=429, body=json.dumps(problem), content_type="application/problem+json"),
    )
    await visitor.try_on()
    await visitor.says("No room for more photos")


async def test_unreachable_server_is_said_in_words(visitor: Visitor) -> None:
    """No code, no stack trace."""
    visitor.expected.append("ERR_FAILED")
    await visitor.arrive()
    await visitor.page.route(f"**{SESSIONS}", lambda route: route.abort())
    await visitor.try_on()
    await visitor.says("The upload did not get through")
    await visitor.page.unroute(f"**{SESSIONS}")
    await visitor.page.get_by_role("button", name="Try again").click()
    await visitor.sees_result()
    keys = {request.headers.get("idempotency-key") for request in visitor.uploads}
    assert len(keys) == 1 and None not in keys, "an upload without an answer is repeated as the same one"
