"""The demo page in a real Chromium, against the whole stack: what a person sees, on
every way to its end.

Each test ends with a look at the browser's console: no error that the test did not
announce, no violation of the page's Content-Security-Policy.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from PIL import Image
from playwright.async_api import ConsoleMessage, Page, Request, WebSocketRoute, expect

from testkit.stack import Stack

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from testkit.fixtures import StartStack

pytestmark = pytest.mark.xdist_group("chromium")

SESSIONS = "/api/tryon/sessions"
SOCKET = re.compile(r"/api/tryon/sessions/[0-9a-f-]+/ws")
STREAM = re.compile(r"/api/tryon/sessions/[0-9a-f-]+/events")
DONE_MS = 20_000  # far more than a session takes; the machine may be busy

#: Notes what the page says and shows, in order and without gaps, into `window.seen`.
WATCH = """
addEventListener("DOMContentLoaded", () => {
  const seen = (window.seen = { said: [], chip: [], steps: [] });
  const note = (list, text) => text && list.at(-1) !== text && list.push(text);
  const look = () => {
    note(seen.said, document.querySelector("#announcer").textContent);
    const chip = document.querySelector("#chip");
    if (chip.checkVisibility()) note(seen.chip, document.querySelector("#chip-text").textContent);
    note(seen.steps, document.querySelector("[aria-current=step] .step-name")?.textContent);
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
});
"""


@dataclass
class Visitor:
    """A person at the page: a fresh browser profile, everything it logged and every
    upload it made.
    """

    page: Page
    url: str
    photos: Path
    expected: list[str] = field(default_factory=list)  #: patterns of console errors that belong to the story
    console: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    async def arrive(self, where: str = "/") -> None:
        await self.page.goto(self.url + where)

    async def choose(self, name: str, zone: str = "#photo-input") -> None:
        await self.page.set_input_files(zone, self.photos / name)

    @property
    def uploads(self) -> list[Request]:
        return [request for request in self.requests if request.method == "POST"]

    async def session_id(self) -> str | None:
        found: str | None = await self.page.evaluate("localStorage.getItem('tryon.session')")
        return found

    async def token(self) -> str | None:
        found: str | None = await self.page.evaluate("localStorage.getItem('tryon.token')")
        return found

    async def seen(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = await self.page.evaluate("window.seen")
        return found

    async def says(self, text: str | re.Pattern[str]) -> None:
        """Wait until the headline reads so."""
        await expect(self.page.locator("#headline")).to_have_text(text, timeout=DONE_MS)

    async def sees_result(self) -> None:
        await self.says("Your result is ready")
        await expect(self.page.get_by_role("img", name="The try-on result")).to_be_visible(timeout=DONE_MS)
        assert await self.page.evaluate("document.querySelector('#result').naturalWidth") > 0

    def unexpected(self) -> list[str]:
        return [line for line in self.console if not any(re.search(pattern, line) for pattern in self.expected)]


async def _visitor(browser: Browser, url: str, photos: Path, **context: Any) -> AsyncIterator[Visitor]:
    profile = await browser.new_context(accept_downloads=True, **context)
    page = await profile.new_page()
    visitor = Visitor(page, url, photos)

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            visitor.console.append(message.text)

    def note(request: Request) -> None:
        visitor.requests.append(request)

    page.on("console", hear)
    page.on("pageerror", lambda error: visitor.console.append(f"uncaught: {error}"))
    page.on("request", note)
    await page.add_init_script(WATCH)
    try:
        yield visitor
    finally:
        await profile.close()
    assert visitor.unexpected() == []


@pytest.fixture(scope="module")
async def product(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One stack for the tests that need no settings of their own."""
    started = await Stack.open(
        tmp_path_factory.mktemp("demo"),
        "up",
        env={
            "TRYON_PORT": "0",
            "TRYON_MOCK_SECONDS": "0.7",
            "TRYON_MOCK_FAILURE_RATE": "0",
            "TRYON_UPLOAD_RATE": "off",
        },
    )
    try:
        yield await started.ready()
    finally:
        await started.close()
        print(f"--- output of {started!r}\n{started.output}")


@pytest.fixture
async def visitor(chromium: Browser, product: Stack, photos: Path) -> AsyncIterator[Visitor]:
    async for someone in _visitor(chromium, product.url, photos):
        yield someone


@pytest.fixture
async def elsewhere(chromium: Browser, stack: StartStack, photos: Path) -> AsyncIterator[Visitor]:
    """A visitor for a stack that the test starts itself: set ``url``.

    Leaves before the stack stops.
    """
    async for someone in _visitor(chromium, "", photos):
        yield someone


# --- the main job ---------------------------------------------------------------------


async def test_a_chosen_photo_is_followed_live_to_its_result(visitor: Visitor, tmp_path: Path) -> None:
    await visitor.arrive()
    await expect(visitor.page).to_have_title("TryOn Push")
    await visitor.choose("photo.jpg")
    await visitor.sees_result()

    seen = await visitor.seen()
    assert seen["said"][0] == "Uploading your photo"
    assert seen["said"][-1] == "Your result is ready"
    assert len(seen["said"]) > 3, "the stages between are said too"
    assert seen["steps"] == ["Created", "Processing", "Completed"]
    assert [state for state in seen["chip"] if state != "Connecting"] == ["Live", "Finished"]

    async with visitor.page.expect_download() as download:
        await visitor.page.get_by_role("link", name="Download").click()
    saved = tmp_path / "result"
    await (await download.value).save_as(saved)
    with Image.open(saved) as picture:
        picture.load()
        assert picture.width >= 64
    assert re.fullmatch(r"try-on-[0-9a-f]{6}\.(jpg|png|webp)", (await download.value).suggested_filename)


@pytest.mark.parametrize("name", ["photo.webp", "garment.png", "large.jpg"])
async def test_every_real_photo_reaches_its_result(visitor: Visitor, name: str) -> None:
    await visitor.arrive()
    await visitor.choose(name)
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
async def test_a_photo_may_be_dropped_anywhere_or_pasted(visitor: Visitor, kind: str, target: str) -> None:
    await visitor.arrive()
    await hand_over(visitor, kind, target, visitor.photos / "photo.jpg", "image/jpeg")
    await visitor.sees_result()
    assert len(visitor.uploads) == 1


async def test_a_garment_dropped_first_travels_with_the_photo(visitor: Visitor) -> None:
    await visitor.arrive()
    await hand_over(visitor, "drop", "#garment-zone", visitor.photos / "garment.png", "image/png")
    await expect(visitor.page.get_by_alt_text("The garment you chose")).to_be_visible()
    assert visitor.uploads == []
    await visitor.choose("photo.jpg")
    await visitor.sees_result()
    assert (await session(visitor))["links"]["garment"]


async def session(visitor: Visitor) -> Any:
    async with httpx.AsyncClient(base_url=visitor.url) as client:
        headers = {"Authorization": f"Bearer {await visitor.token()}"}
        answer = await client.get(f"{SESSIONS}/{await visitor.session_id()}", headers=headers)
    return answer.raise_for_status().json()


async def test_the_footer_says_when_the_photo_is_erased(visitor: Visitor) -> None:
    await visitor.arrive()
    await visitor.choose("photo.jpg")
    await visitor.sees_result()
    await expect(visitor.page.locator("#keeps")).to_have_text(
        re.compile(r"erased tomorrow at \d\d:\d\d, in 2[34] hours")
    )
    await expect(visitor.page.get_by_role("link", name="API documentation")).to_have_attribute("href", "/api/docs")


# --- coming back ----------------------------------------------------------------------


async def test_a_reload_in_the_middle_resumes_the_same_session(visitor: Visitor) -> None:
    await visitor.arrive()
    await visitor.choose("photo.jpg")
    await expect(visitor.page.locator("#chip-text")).to_have_text("Live", timeout=DONE_MS)
    before = (await visitor.session_id(), await visitor.token())
    await visitor.page.reload()
    await visitor.sees_result()
    assert (await visitor.session_id(), await visitor.token()) == before
    assert len(visitor.uploads) == 1
    await expect(visitor.page.get_by_role("img", name="Your photo")).to_be_visible()


async def test_a_reload_after_the_end_shows_the_result_again_until_a_new_photo_is_wanted(visitor: Visitor) -> None:
    await visitor.arrive()
    await visitor.choose("photo.jpg")
    await visitor.sees_result()
    await visitor.page.reload()
    await visitor.sees_result()
    await visitor.page.get_by_role("button", name="New photo").click()
    await expect(visitor.page.get_by_role("heading", name="See it on you.")).to_be_visible()
    await visitor.page.reload()
    await expect(visitor.page.get_by_role("heading", name="See it on you.")).to_be_visible()


async def upload_elsewhere(visitor: Visitor) -> tuple[str, str]:
    """A session made with curl, so to speak: its id and a ticket for it."""
    async with httpx.AsyncClient(base_url=visitor.url) as client:
        with (visitor.photos / "photo.jpg").open("rb") as file:
            made = (await client.post(SESSIONS, files={"image": ("photo.jpg", file)})).raise_for_status().json()
    return made["session_id"], parse_qs(urlsplit(made["links"]["ws"]).query)["ticket"][0]


async def test_a_link_with_a_ticket_shows_a_session_made_elsewhere_read_only(visitor: Visitor) -> None:
    session_id, ticket = await upload_elsewhere(visitor)
    await visitor.arrive(f"/#session={session_id}&ticket={ticket}")
    await expect(visitor.page.get_by_text("It is read-only.")).to_be_visible()
    await visitor.sees_result()
    for name in ("Try again", "New photo", "Choose another photo", "Cancel", "Delete now"):
        await expect(visitor.page.get_by_role("button", name=name)).to_have_count(0)
    await expect(visitor.page.locator("#photo-input")).to_be_hidden()
    assert await visitor.token() is None, "no token is made or sent for somebody else's session"
    assert not [request for request in visitor.requests if "authorization" in request.headers]

    await visitor.page.get_by_role("link", name="Make your own").click()
    await expect(visitor.page.get_by_role("heading", name="See it on you.")).to_be_visible()
    assert urlsplit(visitor.page.url).fragment == ""


async def test_a_changed_hash_shows_the_other_session(visitor: Visitor) -> None:
    visitor.expected.append("401|404")  # the browser itself logs refused requests
    session_id, ticket = await upload_elsewhere(visitor)
    await visitor.arrive()
    await visitor.page.evaluate("(hash) => { location.hash = hash; }", f"session={session_id}&ticket={ticket}")
    await visitor.sees_result()
    await visitor.page.evaluate("(hash) => { location.hash = hash; }", f"session={session_id}&ticket=forged")
    await visitor.says(re.compile("There is nothing here|This link has expired"))
    await expect(visitor.page.get_by_role("img", name="Your photo")).to_be_hidden()


# --- bad networks ---------------------------------------------------------------------


async def refuse(socket: WebSocketRoute) -> None:
    await socket.close(code=4053)


async def test_where_sockets_are_refused_it_is_live_all_the_same(visitor: Visitor) -> None:
    await visitor.page.route_web_socket(SOCKET, refuse)
    await visitor.arrive()
    await visitor.choose("photo.jpg")
    await visitor.sees_result()
    seen = await visitor.seen()
    assert [state for state in seen["chip"] if state != "Connecting"] == ["Live", "Finished"]
    assert [request for request in visitor.requests if urlsplit(request.url).path.endswith("/events")]


async def test_where_nothing_can_be_pushed_the_chip_says_polling(elsewhere: Visitor, stack: StartStack) -> None:
    elsewhere.expected.append("503")
    elsewhere.url = (await stack(TRYON_MOCK_SECONDS="30", TRYON_DRAIN_SECONDS="0")).url
    await elsewhere.page.route_web_socket(SOCKET, refuse)
    await elsewhere.page.route(STREAM, lambda route: route.fulfill(status=503))
    await elsewhere.arrive()
    await elsewhere.choose("photo.jpg")
    await expect(elsewhere.page.locator("#chip-text")).to_have_text("Polling", timeout=DONE_MS)
    await expect(elsewhere.page.locator("[aria-current=step] .step-name")).to_have_text("Processing", timeout=DONE_MS)
    await expect(elsewhere.page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile("^[1-9]"))


async def test_a_silent_socket_does_not_keep_the_person_waiting(visitor: Visitor) -> None:
    async def say_nothing(socket: WebSocketRoute) -> None:
        socket.on_message(lambda _: None)

    await visitor.page.route_web_socket(SOCKET, say_nothing)
    await visitor.arrive()
    await visitor.choose("photo.jpg")
    await visitor.sees_result()


async def test_a_dropped_connection_comes_back_and_says_so(visitor: Visitor) -> None:
    joins: list[str] = []

    async def cut_the_first(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        joins.append(socket.url)
        first = len(joins) == 1

        async def pass_on(text: str | bytes) -> None:
            socket.send(text)
            if first and json.loads(text)["type"] == "progress":
                await server.close()
                await socket.close(code=4002)

        server.on_message(pass_on)

    await visitor.page.route_web_socket(SOCKET, cut_the_first)
    await visitor.arrive()
    await visitor.choose("photo.jpg")
    await visitor.sees_result()
    assert len(joins) >= 2
    assert parse_qs(urlsplit(joins[1]).query)["since"] == ["2"], "it resumes from what it has seen"
    seen = await visitor.seen()
    assert seen["steps"] == ["Created", "Processing", "Completed"], "no step back"
    assert "Reconnecting" in seen["chip"]


async def test_a_hole_is_filled_by_asking_for_a_snapshot(visitor: Visitor) -> None:
    asked: list[Any] = []

    async def lose_one_event(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def up(text: str | bytes) -> None:
            asked.append(json.loads(text))
            server.send(text)

        def down(text: str | bytes) -> None:
            frame = json.loads(text)
            if frame["type"] == "snapshot" and not asked:
                frame["session"] |= {"seq": 1, "status": "created", "terminal": False}  # a joiner before the start
                frame["missed"] = frame["missed"][:1]
            if (frame["type"], frame.get("event")) != ("event", "processing"):
                socket.send(json.dumps(frame))

        socket.on_message(up)
        server.on_message(down)

    await visitor.page.route_web_socket(SOCKET, lose_one_event)
    await visitor.arrive()
    await visitor.choose("photo.jpg")
    await visitor.sees_result()
    assert {"type": "sync", "since": 1} in asked


async def test_a_session_erased_while_watched_is_said_to_be_gone(elsewhere: Visitor, stack: StartStack) -> None:
    elsewhere.url = (await stack(TRYON_MOCK_SECONDS="30", TRYON_DRAIN_SECONDS="0", TRYON_RETENTION_SECONDS="2")).url
    await elsewhere.arrive()
    await elsewhere.choose("photo.jpg")
    await elsewhere.says(re.compile("has expired"))
    await expect(elsewhere.page.get_by_role("img", name="Your photo")).to_be_hidden()
    assert await elsewhere.session_id() is None


# --- when it does not work out --------------------------------------------------------


async def test_a_failed_session_says_why_and_tries_the_same_photo_again(elsewhere: Visitor, stack: StartStack) -> None:
    elsewhere.url = (await stack(TRYON_MOCK_FAILURE_RATE="1")).url
    await elsewhere.arrive()
    await elsewhere.choose("photo.jpg")
    await elsewhere.says("That did not work out")
    await expect(elsewhere.page.get_by_text("The try-on did not work out this time.").first).to_be_visible()
    await expect(elsewhere.page.locator("[aria-current=step] .step-name")).to_have_text("Failed")
    first = await elsewhere.session_id()

    await elsewhere.page.reload()  # the file is gone from the page now, the server still has it
    await elsewhere.says("That did not work out")
    await elsewhere.page.get_by_role("button", name="Try again").click()
    await expect(elsewhere.page.locator("body")).not_to_have_attribute("data-status", "failed")
    await elsewhere.says("That did not work out")
    assert await elsewhere.session_id() != first
    assert (await session(elsewhere))["retry_of"] == first
    assert [urlsplit(request.url).path for request in elsewhere.uploads] == [SESSIONS, f"{SESSIONS}/{first}/retry"]


async def test_a_retry_that_is_refused_counts_down_and_keeps_the_session(elsewhere: Visitor, stack: StartStack) -> None:
    elsewhere.expected.append("429")
    elsewhere.url = (await stack(TRYON_MOCK_FAILURE_RATE="1", TRYON_UPLOAD_RATE="1/minute")).url
    await elsewhere.arrive()
    await elsewhere.choose("photo.jpg")
    await elsewhere.says("That did not work out")
    await elsewhere.page.get_by_role("button", name="Try again").click()
    await elsewhere.says("One moment, please")
    await expect(elsewhere.page.get_by_role("button", name=re.compile(r"Try again in \d+ s"))).to_be_visible()
    await expect(elsewhere.page.get_by_role("img", name="Your photo")).to_be_visible()


# --- having a say ---------------------------------------------------------------------


async def test_who_waits_sees_the_place_and_the_time_and_may_cancel(elsewhere: Visitor, stack: StartStack) -> None:
    elsewhere.url = (await stack(TRYON_MOCK_SECONDS="2", TRYON_WORKER_JOBS="1", TRYON_DRAIN_SECONDS="0")).url
    await elsewhere.arrive()
    await elsewhere.choose("photo.jpg")
    await elsewhere.sees_result()  # from here on the server knows how long it takes
    await upload_elsewhere(elsewhere)
    await upload_elsewhere(elsewhere)
    await elsewhere.page.get_by_role("button", name="New photo").click()
    await elsewhere.choose("photo.jpg")
    await elsewhere.says(re.compile("number 2 in line"))
    await expect(elsewhere.page.locator("#meta-time")).to_have_text(re.compile(r"about \d+ s left"))
    await elsewhere.says("Waiting, next in line")
    await elsewhere.page.get_by_role("button", name="Cancel", exact=True).click()
    await elsewhere.says("Cancelled")
    await expect(elsewhere.page.get_by_role("button", name="Try again")).to_be_visible()
    await expect(elsewhere.page.get_by_role("button", name="Cancel", exact=True)).to_be_hidden()


async def test_what_runs_may_be_cancelled_and_tried_again(elsewhere: Visitor, stack: StartStack) -> None:
    elsewhere.url = (await stack(TRYON_MOCK_SECONDS="30", TRYON_DRAIN_SECONDS="0")).url
    await elsewhere.arrive()
    await elsewhere.choose("photo.jpg")
    step = elsewhere.page.locator("[aria-current=step] .step-name")
    for _ in range(2):
        await expect(step).to_have_text("Processing", timeout=DONE_MS)
        await elsewhere.page.get_by_role("button", name="Cancel", exact=True).click()
        await elsewhere.says("Cancelled")
        await expect(elsewhere.page.get_by_role("img", name="Your photo")).to_be_visible()
        await elsewhere.page.get_by_role("button", name="Try again").click()
    await expect(step).to_have_text("Processing", timeout=DONE_MS)


async def test_a_photo_deleted_now_leaves_a_receipt_that_can_be_checked(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    await visitor.arrive()
    await visitor.choose("photo.jpg")
    await visitor.sees_result()
    session_id, token = await visitor.session_id(), await visitor.token()
    await page.get_by_role("button", name="Delete now").click()
    await page.get_by_role("button", name="Keep it").click()
    await visitor.says("Your result is ready")
    await page.get_by_role("button", name="Delete now").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete now").click()
    await visitor.says("Everything was erased")
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


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def test_what_runs_may_be_deleted_too(elsewhere: Visitor, stack: StartStack) -> None:
    elsewhere.url = (await stack(TRYON_MOCK_SECONDS="30", TRYON_DRAIN_SECONDS="0")).url
    await elsewhere.arrive()
    await elsewhere.choose("photo.jpg")
    await expect(elsewhere.page.locator("[aria-current=step] .step-name")).to_have_text("Processing", timeout=DONE_MS)
    await elsewhere.page.get_by_role("button", name="Delete now").click()
    await elsewhere.page.get_by_role("dialog").get_by_role("button", name="Delete now").click()
    await elsewhere.says("Everything was erased")


async def test_the_last_try_ons_can_be_opened_again(visitor: Visitor) -> None:
    page = visitor.page
    await visitor.arrive()
    await expect(page.get_by_role("heading", name="Your last try-ons")).to_be_hidden()
    await visitor.choose("photo.jpg")
    await visitor.sees_result()
    first = await visitor.session_id()
    await page.get_by_role("button", name="New photo").click()
    await page.get_by_role("button", name=re.compile("^Your result is ready, from today at ")).click()
    await visitor.sees_result()
    assert await visitor.session_id() == first
    assert len(visitor.uploads) == 1


async def test_the_time_left_is_said_in_words(visitor: Visitor) -> None:
    words = {
        86400: "in 24 hours",
        86340: "in 23 hours 59 minutes",
        3660: "in 1 hour 1 minute",
        3599: "in 1 hour",
        700: "in 12 minutes",
        260: "in 4 minutes 20 seconds",
        60: "in 1 minute",
        0.2: "in 1 second",
    }
    await visitor.arrive()
    said = await visitor.page.evaluate(
        "async (times) => { const { fromNow } = await import('/static/words.js'); return times.map((s) => fromNow(s * 1000)); }",
        list(words),
    )
    assert said == list(words.values())


async def test_a_text_file_is_refused_with_words(visitor: Visitor, tmp_path: Path) -> None:
    visitor.expected.append("415")
    await visitor.arrive()
    notes = tmp_path / "notes.txt"
    notes.write_text("milk, eggs")
    await visitor.page.set_input_files("#photo-input", notes)
    await expect(visitor.page.get_by_role("alert")).to_contain_text("“notes.txt” is not a picture")
    assert visitor.uploads == []

    disguised = notes.rename(tmp_path / "notes.jpg")
    await visitor.page.set_input_files("#photo-input", disguised)
    await visitor.says("That is not a photo we can read")
    await expect(visitor.page.locator("#message")).to_contain_text("JPEG")
    await expect(visitor.page.get_by_role("button", name="Try again")).to_have_count(0)
    await visitor.page.get_by_role("button", name="Choose another photo").click()
    await visitor.choose("photo.jpg")
    await visitor.sees_result()


async def test_a_photo_over_the_limit_is_refused_with_words(elsewhere: Visitor, stack: StartStack) -> None:
    elsewhere.expected.append("413")
    elsewhere.url = (await stack(TRYON_IMAGE_MAX_BYTES="20000")).url
    await elsewhere.arrive()
    await elsewhere.choose("photo.jpg")
    await elsewhere.says("That file is too large")


async def test_too_many_uploads_count_down_to_the_next(elsewhere: Visitor, stack: StartStack) -> None:
    elsewhere.expected.append("429")
    elsewhere.url = (await stack(TRYON_UPLOAD_RATE="1/minute")).url
    await elsewhere.arrive()
    await elsewhere.choose("photo.jpg")
    await elsewhere.sees_result()
    await elsewhere.page.get_by_role("button", name="New photo").click()
    await elsewhere.choose("photo.jpg")
    await elsewhere.says("One moment, please")
    again = elsewhere.page.get_by_role("button", name=re.compile(r"Try again in \d+ s"))
    await expect(again).to_have_attribute("aria-disabled", "true")
    sent = len(elsewhere.uploads)
    await again.click(force=True)
    assert len(elsewhere.uploads) == sent


async def test_a_photo_too_small_to_use_is_refused_with_words(visitor: Visitor, tmp_path: Path) -> None:
    visitor.expected.append("422")
    await visitor.arrive()
    Image.new("RGB", (20, 20)).save(tmp_path / "tiny.png")
    await visitor.page.set_input_files("#photo-input", tmp_path / "tiny.png")
    await visitor.says("That photo is too small")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (503, "queue_full", "Very busy right now"),
        (503, "unavailable", "Out for a moment"),
        (507, "storage_full", "No room right now"),
        (500, "internal_error", "Internal error"),
    ],
)
async def test_a_service_in_trouble_says_so_and_offers_to_try_again(
    visitor: Visitor, status: int, code: str, words: str
) -> None:
    visitor.expected.append(str(status))
    problem = {"code": code, "title": "Internal error", "detail": "…", "retryable": True, "request_id": "abc-1"}
    headers = {"Retry-After": "0", "Content-Type": "application/problem+json"}
    await visitor.arrive()
    await visitor.page.route(
        f"**{SESSIONS}", lambda route: route.fulfill(status=status, body=json.dumps(problem), headers=headers), times=1
    )
    await visitor.choose("photo.jpg")
    await visitor.says(words)
    await expect(visitor.page.locator("#reference")).to_have_text("Reference: abc-1")
    again = visitor.page.get_by_role("button", name="Try again", exact=True)
    await expect(again).to_have_attribute("aria-disabled", "false")
    await again.click()
    await visitor.sees_result()


async def test_a_server_that_cannot_be_reached_is_said_in_plain_words(visitor: Visitor) -> None:
    visitor.expected.append("ERR_FAILED")
    await visitor.arrive()
    await visitor.page.route(f"**{SESSIONS}", lambda route: route.abort())
    await visitor.choose("photo.jpg")
    await visitor.says("The upload did not get through")
    await visitor.page.unroute(f"**{SESSIONS}")
    await visitor.page.get_by_role("button", name="Try again").click()
    await visitor.sees_result()
    keys = {request.headers.get("idempotency-key") for request in visitor.uploads}
    assert len(keys) == 1 and None not in keys, "an upload without an answer is repeated as the same one"


# --- for everyone ---------------------------------------------------------------------


async def test_the_keyboard_alone_is_enough(visitor: Visitor) -> None:
    page = visitor.page
    page.on(
        "filechooser", lambda _: None
    )  # the browser is told early to hand choosers over, not only as Enter is pressed
    await visitor.arrive()

    async def tab_to(element_id: str) -> None:
        for _ in range(12):
            if await page.evaluate("document.activeElement.id") == element_id:
                return
            await page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not lead to {element_id}")

    await tab_to("photo-input")
    outline = await page.evaluate("getComputedStyle(document.querySelector('#photo-zone')).outlineStyle")
    assert outline == "solid", "the focus can be seen"
    async with page.expect_file_chooser() as chooser:
        await page.keyboard.press("Enter")
    await (await chooser.value).set_files(visitor.photos / "photo.jpg")
    await visitor.sees_result()
    assert await page.evaluate("document.activeElement.id") == "headline", "the focus follows the view"
    await tab_to("download")
    async with page.expect_download():
        await page.keyboard.press("Enter")
    await page.keyboard.press("Shift+Tab")
    assert await page.evaluate("document.activeElement.id") == "new"
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "photo-input"


NAMELESS = """
() => {
  const named = (element) => element.ariaLabel || element.title || element.textContent.trim() ||
    element.getAttribute("alt") || [...(element.labels ?? [])].some((label) => label.textContent.trim());
  return [...document.querySelectorAll("a, button, input, [role=progressbar]")]
    .filter((element) => !named(element))
    .concat([...document.querySelectorAll("img:not([alt])")])
    .concat([...document.querySelectorAll("img[alt='']:not([aria-hidden=true])")])
    .map((element) => element.outerHTML);
}
"""


async def test_everything_has_a_name_and_changes_are_announced(visitor: Visitor) -> None:
    await visitor.arrive()
    page = visitor.page
    assert await page.evaluate("document.documentElement.lang") == "en"
    assert await page.evaluate(NAMELESS) == []
    await expect(page.get_by_label("Your photo", exact=True)).to_have_attribute("type", "file")
    await expect(page.get_by_label("A garment", exact=True)).to_have_attribute("type", "file")
    for landmark in ("banner", "main", "contentinfo"):
        await expect(page.get_by_role(landmark)).to_have_count(1)
    await expect(page.get_by_role("heading", level=1)).to_have_count(1)
    await expect(page.get_by_role("status")).to_have_attribute("aria-live", "polite")
    await visitor.choose("photo.jpg")
    await visitor.sees_result()
    assert await page.evaluate(NAMELESS) == []
    await expect(page.get_by_role("heading", level=1)).to_have_count(1)
    await expect(page.get_by_role("status")).to_have_text("Your result is ready")


async def test_it_fits_a_phone_in_the_dark_without_motion(chromium: Browser, product: Stack, photos: Path) -> None:
    async for someone in _visitor(
        chromium,
        product.url,
        photos,
        viewport={"width": 375, "height": 720},
        is_mobile=True,
        has_touch=True,
        color_scheme="dark",
        reduced_motion="reduce",
    ):
        page = someone.page
        await someone.arrive()
        width = "document.documentElement.scrollWidth"
        assert await page.evaluate(width) == 375
        await someone.choose("photo.jpg")
        await expect(page.locator("#chip-text")).to_have_text("Live", timeout=DONE_MS)
        assert await page.evaluate("document.getAnimations().filter((a) => a.playState === 'running').length") == 0
        await someone.sees_result()
        assert await page.evaluate(width) == 375
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(19, 21, 20)"


async def test_the_page_runs_under_a_strict_policy(product: Stack) -> None:
    async with httpx.AsyncClient(base_url=product.url) as client:
        answer = await client.get("/")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        for name in re.findall(r'"(/static/[^"]+)"', answer.text):
            found = await client.get(name)
            assert found.status_code == 200, name
            if name.endswith(".js"):
                assert found.headers["content-type"].startswith("text/javascript"), name
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", answer.text), "nothing inline"
