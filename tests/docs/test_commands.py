"""The commands of the documents run, and print what the pages show."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from server.chaos.verdict import KINDS
from server.cli.exits import Exit
from server.cli.main import cli
from testkit.documents import Reader, frames_in, keys_of, marked, text_of
from testkit.plugin import missing

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from testkit.fixtures import StartStack


@pytest.fixture
def wscat() -> None:
    """`npx wscat` as the pages have it, without a download."""
    for tool in ("curl", "npx"):
        if shutil.which(tool) is None:
            missing(tool)
    if subprocess.run(["npx", "--no-install", "wscat", "--version"], capture_output=True, check=False).returncode != 0:
        missing("wscat (npm install --global wscat)")


def check_the_story(frames: list[dict[str, Any]]) -> None:
    assert frames[0]["type"] == "snapshot"
    assert (frames[-1]["type"], frames[-1]["code"], frames[-1]["reason"]) == ("bye", 1000, "completed")
    seqs = [frame["seq"] for frame in frames if frame["type"] == "event"]
    assert seqs == list(range(frames[0]["session"]["seq"] + 1, 4))


def check_against_the_page(screen: str, printed: str) -> None:
    """Compare a terminal with the page: lines, frames in their order, field names."""
    frames = iter(frames_in(screen))
    for line in printed.splitlines():
        if not line.startswith("< "):
            assert line in screen, line
            continue
        kind = re.search(r'"type":"(\w+)"', line)
        assert kind, line
        frame = next((frame for frame in frames if frame["type"] == kind[1]), None)
        assert frame is not None, f"no such frame (any more): {line}"
        assert set(re.findall(r'"(\w+)":', line)) <= keys_of(frame), line


async def read_page(name: str, reader: Reader, checks: Mapping[str, Callable[[str], None]]) -> None:
    """Type every marked block in order, and check its output by its name."""
    screen = ""
    for kind, what, block in marked(name):
        if what == "start":
            continue  # the reader's stack runs already
        if kind == "output":
            check_against_the_page(screen, block)
        elif what == "wscat":
            assert block.strip() in block_of_submit(reader), "the line that submit prints is another one"
            screen = await reader.types_in_a_terminal(block)
            check_the_story(frames_in(screen))
        else:
            out = await reader.types(block)
            if what:
                checks[what](out)


def block_of_submit(reader: Reader) -> str:
    """Return what `submit` has printed, with the page's placeholders."""
    ticket = reader.session["links"]["ws"].partition("ticket=")[2]
    ws_url = reader.stack.url.replace("http", "ws")
    text = reader.printed_by_submit.replace(reader.session["session_id"], "<id>").replace(ticket, "<ticket>")
    return text.replace(ws_url, "ws://127.0.0.1:8000")


def submitted(out: str) -> None:
    assert re.fullmatch(r"([0-9a-f-]{36}\n)?", out)


@pytest.fixture
async def reader(stack: StartStack, tmp_path: Path) -> Reader:
    # Long enough for npx to start while something is left to be seen.
    return Reader(await stack(TRYON_MOCK_SECONDS="6"), tmp_path)


def saved(out: str) -> None:
    assert out.splitlines()[-1] == "out.jpg"


def ended(out: str) -> None:
    answer = json.loads(out)
    assert (answer["status"], answer["terminal"], answer["seq"]) == ("completed", True, 3)


@pytest.mark.usefixtures("wscat")
async def test_readme_commands_do_what_it_says(reader: Reader) -> None:
    """A reader types every block, and sees what the page shows."""
    await read_page("README.md", reader, {"first": saved, "submit": submitted})
    assert (reader.folder / "out.jpg").read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.slow
@pytest.mark.usefixtures("wscat")
async def test_quick_start_commands_do_what_it_says(reader: Reader) -> None:
    """The same for the quick start, to the erased session."""

    def streamed(out: str) -> None:
        data = [json.loads(line.removeprefix("data: ")) for line in out.splitlines() if line.startswith("data: ")]
        assert [frame["type"] for frame in data] == ["snapshot", "bye"]

    def history(out: str) -> None:
        assert [event["event"] for event in json.loads(out)["events"]] == ["created", "processing", "completed"]

    def erased(out: str) -> None:
        assert {file["role"] for file in json.loads(out)["files"]} == {"person", "garment", "result"}

    def gone(out: str) -> None:
        assert json.loads(out)["code"] == "not_found"

    def uploaded(out: str) -> None:
        assert (json.loads(out)["status"], json.loads(out)["seq"]) == ("created", 1)

    def read(out: str) -> None:
        assert "ticket=" in json.loads(out)["links"]["ws"]

    checks = {"submit": submitted, "read": read, "upload": uploaded, "events": streamed, "poll": ended}
    checks |= {"history": history, "erase": erased, "gone": gone}
    await read_page("docs/quick-start.md", reader, checks)


@pytest.mark.slow
async def test_chaos_page_commands_find_nothing(stack: StartStack, tmp_path: Path) -> None:
    """A run of the page and its verdict have no finding."""

    def nothing_found(out: str) -> None:
        counts = dict(re.findall(r"^([a-z ]+?)  +(\d+)  ", out, re.MULTILINE))
        assert {counts[kind] for kind in KINDS} == {"0"}

    reader = Reader(await stack(), tmp_path)
    await read_page("docs/chaos.md", reader, {"chaos": nothing_found, "verdict": nothing_found})


@pytest.mark.slow
async def test_command_line_page_makes_pictures(stack: StartStack, tmp_path: Path) -> None:
    """Every block runs in its order, and the pictures are there."""
    reader = Reader(await stack(), tmp_path)

    def shown(out: str) -> None:
        reader.session = json.loads(out.splitlines()[-1])
        assert reader.session["status"] == "completed"

    def erased(out: str) -> None:
        assert out.startswith(f"Erased {reader.session['session_id']}: 2 files, ")

    await read_page("docs/command-line.md", reader, {"script": shown, "erase": erased})
    for name in ("out.jpg", "next.jpg", "again.jpg", "check.jpg"):
        assert (reader.folder / name).read_bytes()[:2] == b"\xff\xd8"
    assert json.loads((reader.folder / "r.json").read_text())["session_id"] == reader.session["session_id"]


def test_command_line_page_names_every_command() -> None:
    """A command that is not there would not be found."""
    text = text_of("docs/command-line.md")
    shown = re.findall(r"`tryon (\w[\w-]*)", text) + re.findall(r"^tryon (\w[\w-]*)", text, re.MULTILINE)
    assert set(cli.commands) - set(shown) == {"overlay", "sample-photos", "verdict"}
    assert all(f"| {status.value} |" in text for status in Exit)


@pytest.mark.slow
@pytest.mark.xdist_group("chromium")
async def test_page_link_opens_session_in_browser(stack: StartStack, chromium: Browser, tmp_path: Path) -> None:
    """The link with a ticket shows the result of the submitted photo."""
    reader = Reader(await stack(), tmp_path)
    link = re.search(r"`(http://\S+#session=<id>&ticket=<ticket>)`", text_of("docs/quick-start.md"))
    assert link
    for _, what, block in marked("docs/quick-start.md"):
        if what in ("", "submit"):
            await reader.types(block)
    context = await chromium.new_context()
    try:
        page = await context.new_page()
        await page.goto(reader.filled_in(link[1]))
        await page.get_by_role("heading", name="Your result is ready").wait_for()
    finally:
        await context.close()


async def test_architecture_page_processor_works(photos: Path) -> None:
    """The class of the page makes a picture."""
    from testkit.jobs import job_of
    from tryon.processor.conformance import Reports

    (block,) = [block for _, what, block in marked("docs/architecture.md") if what == "processor"]
    namespace: dict[str, Any] = {}
    exec(compile(block, "docs/architecture.md", "exec", dont_inherit=True), namespace)
    report = Reports()
    run: Callable[..., Awaitable[Any]] = namespace["Mirror"]().run
    output = await run(job_of((photos / "photo.webp").read_bytes(), "image/webp"), report)
    assert (output.data[:3], output.type) == (b"\xff\xd8\xff", "image/jpeg")
    assert [each[:2] for each in report.all] == [(0.1, "looking into the mirror")]


def test_pages_have_commands_to_run() -> None:
    """The tests above would pass on a page without any."""
    assert [what for kind, what, _ in marked("README.md") if kind == "run"] == ["start", "first", "submit", "wscat"]
    assert len(list(marked("docs/quick-start.md"))) >= 10
