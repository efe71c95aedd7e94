"""static/tryon.js as a library: options, the guide, its modules."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.async_api import BrowserContext

from server.config.settings import Config
from server.domain.stored_files import NewFile
from testkit.processes import ROOT, reserved_port
from testkit.running import Web, running_web, until
from tests.browser.play import FOLLOW, TRANSPORTS, Start, followers, open_page

pytestmark = pytest.mark.xdist_group("chromium")


# -- the rest of the client ------------------------------------------------------------


async def test_following_starts_after_since(start: Start) -> None:
    """No earlier event comes."""
    play = await start()
    await play.begin()
    await play.follow(since=2)
    await play.on("ws")
    await play.complete()
    await play.until("story.end !== null")
    assert [event["seq"] for event in (await play.story())["events"]] == [3]


async def test_ended_session_is_read_at_once(start: Start) -> None:
    """With all its events."""
    play = await start()
    await play.begin()
    await play.complete()
    await play.follow()
    await play.ends_whole()


async def test_throwing_callback_stops_nothing(start: Start) -> None:
    """The error is reported, and following goes on."""
    play = await start()
    thrown: list[Any] = []

    def note(error: Any) -> None:
        thrown.append(error)

    play.page.on("pageerror", note)
    given = {"base": "", "id": play.session.id, "token": play.token, "options": {}}
    await play.page.evaluate(FOLLOW.replace("story.sessions.push", "window.noSuchFunction"), given)
    await play.begin()
    await play.complete()
    await play.until("story.end !== null")
    assert len((await play.story())["events"]) == 3
    assert thrown


async def test_following_shows_previews_and_results(start: Start) -> None:
    """A preview comes with progress, results with their transition."""
    play = await start()
    await play.begin()
    await play.follow(transports=["ws"])
    await play.knows(2)
    assert play.claim is not None
    claims = play.services.sessions.claims
    assert await claims.preview(play.claim, NewFile(b"\x89PNG preview", "image/png", 9, 8))
    await claims.report(play.claim, 0.5, "rendering", step=3, steps=20, upstream_position=4)
    await play.until("following.session.preview && following.session.step === 3")
    shown = await play.page.evaluate("({ ...following.session })")
    assert (shown["steps"], shown["upstream_position"], shown["preview"]["type"]) == (20, 4, "image/png")
    assert "/previews/" in shown["preview"]["link"]
    await play.complete()
    await play.until("story.end !== null")
    [result] = (await play.story())["end"]["outputs"]
    assert (result["role"], result["index"], result["type"]) == ("result", 0, "image/jpeg")
    assert "/outputs/" in result["link"]


async def test_upload_names_photos_by_role(start: Start) -> None:
    """The processor tells its roles; a refusal names the part."""
    play = await start()
    await play.follow()
    found = await play.page.evaluate(
        """
        async () => {
          const canvas = Object.assign(document.createElement("canvas"), { width: 200, height: 300 });
          canvas.getContext("2d").fillRect(20, 20, 90, 90);
          const photo = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg"));
          const { name, roles } = await tryon.processor();
          const session = await tryon.upload(null, { inputs: { person: photo, garment: [photo] } });
          const refused = await tryon.upload(photo, { inputs: { hat: photo } }).catch((problem) => problem);
          return { name, roles: roles.map((role) => role.name), code: refused.code, part: refused.part,
            inputs: session.inputs.map(({ role, index }) => [role, index]) };
        }
        """
    )
    assert (found["name"], found["roles"]) == ("mock", ["person", "garment"])
    assert found["inputs"] == [["person", 0], ["garment", 0]]
    assert (found["code"], found["part"]) == ("unknown_input", "hat")


async def test_closed_following_is_silent(start: Start, web: Web) -> None:
    """No callback runs, and the connection ends."""
    play = await start()
    await play.follow()
    await play.on("ws")
    await play.page.evaluate("following.close()")
    await until(lambda: not followers(web))
    await play.begin()
    await play.complete()
    story = await play.story()
    assert len(story["events"]) == 1
    assert story["end"] == "AbortError"


@contextlib.asynccontextmanager
async def elsewhere() -> AsyncIterator[str]:
    """Return an origin that is another server's; nothing listens there."""
    with reserved_port() as reserved:
        yield f"http://localhost:{reserved.getsockname()[1]}"


async def test_other_origin_can_use_every_call(context: BrowserContext, config: Callable[..., Config]) -> None:
    """A page that is hosted elsewhere."""
    async with running_web(config()) as web, elsewhere() as origin:
        noted: dict[str, Any] = {"requests": [], "said": []}
        page = await open_page(context, origin, noted)
        made = await page.evaluate(
            """
            async (base) => {
              const { Problem, TryOn } = await import(`${base}/static/tryon.js`);
              const tryon = new TryOn({ base });
              const canvas = Object.assign(document.createElement("canvas"), { width: 200, height: 300 });
              canvas.getContext("2d").fillRect(20, 20, 90, 90);
              const photo = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg"));
              const parts = [];
              const options = { params: { a: 1 }, idempotencyKey: "once", onProgress: (part) => parts.push(part) };
              const session = await tryon.upload(photo, options);
              const again = await tryon.upload(photo, options);
              const aborted = new AbortController();
              const stopped = tryon.upload(photo, { signal: aborted.signal });
              aborted.abort();
              const abort = await stopped.catch((error) => error.name);
              const transports = [];
              for (const transport of ["ws", "sse", "long-poll", "poll"]) {
                const following = tryon.follow(session.session_id, { transports: [transport] });
                await new Promise((resolve) => {
                  const timer = setInterval(() => following.transport && resolve(clearInterval(timer)), 10);
                });
                transports.push(following.transport);
                following.close();
              }
              const photoOf = await fetch(session.links.input).then((answer) => answer.status);
              const following = tryon.follow(session);
              const early = await tryon.retry(session.session_id).catch((problem) => problem);
              const cancelled = await tryon.cancel(session.session_id);
              const end = await following.done;
              const next = await tryon.retry(session.session_id);
              const page = await tryon.list({ limit: 1 });
              const receipt = await tryon.remove(next.session_id);
              const gone = await tryon.read(session.session_id).catch((problem) => problem);
              return {
                session, again: again.session_id, progress: parts.at(-1), abort, transports, photoOf,
                early: [early instanceof Problem, early.status, early.code], cancelled: cancelled.status, end: end.status,
                retryOf: next.retry_of, listed: page.sessions.map(({ session_id }) => session_id), more: page.next_cursor,
                next: next.session_id, files: receipt.files.length, signature: receipt.signature.length,
                gone: [gone.status, gone.code], token: tryon.token,
              };
            }
            """,
            f"http://127.0.0.1:{web.port}",
        )
        await page.close()
    session = made["session"]
    assert made["again"] == session["session_id"], "the same idempotency key, the same session"
    assert session["links"]["input"].startswith(f"http://127.0.0.1:{web.port}/api/tryon/files/")
    assert made["progress"] == 1
    assert made["abort"] == "AbortError"
    assert made["transports"] == list(TRANSPORTS)
    assert made["photoOf"] == 200
    assert made["early"] == [True, 409, "not_finished"]
    assert (made["cancelled"], made["end"]) == ("cancelled", "cancelled")
    assert made["retryOf"] == session["session_id"]
    assert made["listed"] == [made["next"]]
    assert made["more"]
    assert made["files"] == 2, "the photo and its copy"
    assert made["signature"] == 86
    assert made["gone"] == [404, "not_found"]


# -- the guide -------------------------------------------------------------------------

GUIDE: Final = (ROOT / "docs" / "browser-client.md").read_text()


async def test_guide_example_works(context: BrowserContext, config: Callable[..., Config], photos: Path) -> None:
    """As it stands on the page."""
    example = re.search(r"```js\n(.*?)```", GUIDE, re.DOTALL)
    assert example is not None
    code = re.sub(r'import (\{.*?\}) from (".*?");', r"const \1 = await import(\2);", example[1])
    async with running_web(config()) as web, elsewhere() as origin:
        code = code.replace("https://tryon.example", f"http://127.0.0.1:{web.port}")
        page = await open_page(context, origin, {"requests": [], "said": []})
        await page.set_content("<input type=file>")
        await page.set_input_files("input", photos / "photo.jpg")
        await page.evaluate("() => { window.shown = []; window.show = (...news) => shown.push(news); }")
        await page.evaluate(
            f"() => {{ const file = document.querySelector('input').files[0];"
            f"window.example = (async () => {{ {code} return {{ status, links }}; }})(); }}"
        )
        await page.wait_for_function("() => shown.length > 0")
        (waiting,) = (await web.services.sessions.queue_places.current()).keys()
        claim = await web.services.sessions.claims.begin(waiting, worker="test")
        assert claim is not None
        await web.complete(claim)
        end = await page.evaluate("example")
        await page.close()
    assert end["status"] == "completed"
    assert end["links"]["output"].startswith(f"http://127.0.0.1:{web.port}/")


def test_guide_names_every_option_and_call() -> None:
    """Of the types."""
    types = "".join((ROOT / "static" / name).read_text() for name in ("tryon.d.ts", "tryon-watch.d.ts"))
    for name in (
        "TryOnOptions",
        "UploadOptions",
        "RunOptions",
        "Run",
        "FollowOptions",
        "Following",
        "WatchOptions",
        "Watching",
        "Problem",
        "TryOn",
    ):
        block = re.search(rf"(?:interface|class) {name}(?: extends .*)? {{\n(.*?)^}}", types, re.DOTALL | re.MULTILINE)
        assert block is not None
        for member in re.findall(r"^  (?:readonly )?(\w+)\??[:(]", block[1], re.MULTILINE):
            if member not in ("constructor", "clockOffset", "base"):
                assert re.search(rf"[`(., ]{member}\b", GUIDE), (name, member)


# -- the modules ---------------------------------------------------------------------


def test_script_imports_only_its_own_modules() -> None:
    """The core imports the rest when it needs it."""
    imports = {
        "tryon.js": ["./tryon-lower.js", "./tryon-progress.js"],
        "tryon-lower.js": ["./tryon-shared.js", "./tryon-tabs.js"],
        "tryon-progress.js": [],
        "tryon-shared.js": ["./tryon-watch.js"],
        "tryon-tabs.js": [],
        "tryon-watch.js": ["./tryon.js"],
    }
    code = {name: (ROOT / "static" / name).read_text() for name in imports}
    found = {name: re.findall(r'(?:from |import\()"(.*?)"', text) for name, text in code.items()}
    assert {name: sorted(names) for name, names in found.items()} == imports
    assert not re.search(r"^import\b", code["tryon.js"], re.MULTILINE), "all of them later"
