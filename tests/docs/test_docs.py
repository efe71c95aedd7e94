"""The documents are true: their commands run, their tables are complete, their links
lead somewhere.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.metrics import MetricWrapperBase

from server.chaos.verdict import KINDS
from server.config import render
from server.telemetry import metrics as telemetry_metrics
from server.web.api.operations import OPERATIONS
from testkit.documents import PAGES, Reader, frames_in, keys_of, marked, name_of, text_of
from testkit.plugin import missing
from testkit.processes import ROOT
from tryon.protocol.states import mermaid

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
    """What the page shows of the terminal is what a terminal shows: lines, frames in
    their order, field names.
    """
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
    """Type every marked block in order, and check what it prints by its name."""
    screen = ""
    for kind, what, block in marked(name):
        if kind == "output":
            check_against_the_page(screen, block)
        elif what == "wscat":
            screen = await reader.types_in_a_terminal(block)
            check_the_story(frames_in(screen))
        else:
            out = await reader.types(block)
            if what == "upload":
                reader.session = json.loads(out)
                assert (reader.session["status"], reader.session["seq"]) == ("created", 1)
            elif what:
                checks[what](out)


@pytest.fixture
async def reader(stack: StartStack, tmp_path: Path) -> Reader:
    # Long enough for npx to start while something is left to be seen.
    return Reader(await stack(TRYON_MOCK_SECONDS="8"), tmp_path)


def ended(out: str) -> None:
    answer = json.loads(out)
    assert (answer["status"], answer["terminal"], answer["seq"]) == ("completed", True, 3)


@pytest.mark.usefixtures("wscat")
async def test_every_command_of_the_readme_does_what_it_says(reader: Reader) -> None:
    await read_page("README.md", reader, {"poll": ended})


@pytest.mark.usefixtures("wscat")
async def test_every_command_of_the_quick_start_does_what_it_says(reader: Reader) -> None:
    def streamed(out: str) -> None:
        data = [json.loads(line.removeprefix("data: ")) for line in out.splitlines() if line.startswith("data: ")]
        assert [frame["type"] for frame in data] == ["snapshot", "bye"]

    def history(out: str) -> None:
        assert [event["event"] for event in json.loads(out)["events"]] == ["created", "processing", "completed"]

    def erased(out: str) -> None:
        assert {file["role"] for file in json.loads(out)["files"]} == {"image", "garment", "output"}

    def gone(out: str) -> None:
        assert json.loads(out)["code"] == "not_found"

    checks = {"events": streamed, "poll": ended, "history": history, "erase": erased, "gone": gone}
    await read_page("docs/quick-start.md", reader, checks)


async def test_every_command_of_the_chaos_page_does_what_it_says(stack: StartStack, tmp_path: Path) -> None:
    def nothing_found(out: str) -> None:
        counts = dict(re.findall(r"^([a-z ]+?)  +(\d+)  ", out, re.MULTILINE))
        assert {counts[kind] for kind in KINDS} == {"0"}

    reader = Reader(await stack(), tmp_path)
    await read_page("docs/chaos.md", reader, {"chaos": nothing_found, "verdict": nothing_found})


@pytest.mark.xdist_group("chromium")
@pytest.mark.parametrize("name", ["README.md", "docs/quick-start.md"])
async def test_the_link_of_a_page_shows_the_session_in_a_browser(
    name: str, stack: StartStack, chromium: Browser, tmp_path: Path
) -> None:
    reader = Reader(await stack(), tmp_path)
    link = re.search(r"`(http://\S+#session=<id>&ticket=<ticket>)`", text_of(name))
    assert link
    for _, what, block in marked(name):
        if what in ("", "upload"):
            out = await reader.types(block)
    reader.session = json.loads(out)
    context = await chromium.new_context()
    try:
        page = await context.new_page()
        await page.goto(reader.filled_in(link[1]))
        await page.get_by_role("heading", name="Your result is ready").wait_for()
    finally:
        await context.close()


async def test_the_processor_of_the_architecture_page_works(photos: Path) -> None:
    from tryon.processor import Job

    (block,) = [block for _, what, block in marked("docs/architecture.md") if what == "processor"]
    namespace: dict[str, Any] = {}
    exec(compile(block, "docs/architecture.md", "exec", dont_inherit=True), namespace)
    reports: list[tuple[float | None, str | None]] = []

    async def report(progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
        reports.append((progress, stage))

    run: Callable[..., Awaitable[Any]] = namespace["Mirror"]().run
    output = await run(Job("id", 1, (photos / "photo.webp").read_bytes(), "image/webp"), report)
    assert (output.data[:3], output.extension) == (b"\xff\xd8\xff", "jpg")
    assert reports == [(0.1, "looking into the mirror")]


def test_there_are_commands_to_run() -> None:
    assert [what for kind, what, _ in marked("README.md") if kind == "run"] == ["", "upload", "wscat", "poll"]
    assert len(list(marked("docs/quick-start.md"))) >= 8


# -- the tables ------------------------------------------------------------------------


def test_the_settings_page_is_the_table_of_the_code() -> None:
    assert text_of("docs/settings.md").endswith("\n\n" + render.markdown_table()), "tryon settings --markdown"


def test_every_setting_a_page_names_exists() -> None:
    known = {name for name, _, _ in render.rows()}
    for page in PAGES:
        named = set(re.findall(r"\bTRYON_[A-Z_]+[A-Z]\b", page.read_text()))
        assert named <= known, (name_of(page), named - known)


def test_every_finding_is_explained() -> None:
    explained = re.findall(r"^\| `([a-z ]+)` \| (.*) \|$", text_of("docs/chaos.md"), re.MULTILINE)
    assert explained == [(kind.value, meaning) for kind, meaning in KINDS.items()]


def test_the_state_diagram_is_that_of_the_table() -> None:
    assert f"```mermaid\n{mermaid()}\n```" in text_of("README.md")


def test_every_metric_is_explained() -> None:
    metrics = {
        metric._name: ", ".join(metric._labelnames)
        for metric in vars(telemetry_metrics).values()
        if isinstance(metric, MetricWrapperBase)
    }
    explained = dict(re.findall(r"^\| `(tryon_\w+)` \| ([\w, ]*?) ?\|", text_of("docs/operations.md"), re.MULTILINE))
    assert explained == metrics


def test_every_call_a_page_names_exists() -> None:
    paths = [re.sub(r"{\w+}", "[^/]+", row.path) for row in OPERATIONS]
    for page in PAGES:
        for called in re.findall(r"(?<![\w.])/api/[\w/{}<>….-]+(?<!\.)", page.read_text()):
            called = re.sub(r"{\w+}|<\w+>", "x", called).rstrip("/…")
            fits = any(re.fullmatch(path, called) or re.fullmatch(f"{path}/.*", called) for path in paths)
            assert fits or any(path.startswith(called) for path in paths), (name_of(page), called)


def test_every_decision_is_listed_and_has_its_four_parts() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^\d+\. \[.*\]\((\d{4}-[\w-]+\.md)\)$", (folder / "README.md").read_text(), re.MULTILINE)
    records = sorted(path.name for path in folder.glob("0*.md"))
    assert listed == records
    for number, name in enumerate(records, 1):
        text = (folder / name).read_text()
        assert text.startswith(f"# {number}. "), name
        for part in ("Context", "Decision", "Consequences", "Considered"):
            assert text.count(f"**{part}.** ") == 1, (name, part)


# -- the words -------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / name for name in (".env.example", "requirements.lock", "requirements-test.lock"))],
    ids=name_of,
)
def test_no_page_names_one_machine_or_one_registry(page: Path) -> None:
    text = page.read_text()
    assert str(ROOT) not in text
    assert not re.search(r"/(?:home|Users|root|mnt)/\w", text)
    assert not re.search(r"\b(?:pypi|pythonhosted|npmjs|yarnpkg)\.(?:org|com)\b|--(?:extra-)?index-url", text)
