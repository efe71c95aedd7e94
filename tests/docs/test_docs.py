"""The tables and links of the documents agree with the code."""

from __future__ import annotations

import ast
import functools
import gc
import re
from collections import Counter
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.metrics import MetricWrapperBase

from server.chaos.verdict import KINDS
from server.config import render
from server.telemetry import metrics as telemetry_metrics
from server.web.api.metrics_page import FACTS
from server.web.api.operations import OPERATIONS
from testkit import architecture
from testkit.documents import PAGES, name_of, text_of
from testkit.processes import ROOT
from tryon.protocol.states import mermaid

# -- the tables ------------------------------------------------------------------------


def test_settings_page_is_generated_table() -> None:
    """``tryon settings --markdown`` writes it."""
    assert text_of("docs/settings.md").endswith("\n\n" + render.markdown_table()), "tryon settings --markdown"


def test_pages_name_only_existing_settings() -> None:
    """A renamed setting is renamed on every page."""
    known = {name for name, _, _ in render.rows()}
    known |= set(re.findall(r"^(\w+)=", text_of("deploy/compose.env.example"), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"\bTRYON_[A-Z_]+[A-Z]\b", page.read_text()))
        assert named <= known, (name_of(page), named - known)


def test_settings_have_comments_on_lines_of_their_own() -> None:
    """Docker and systemd take a comment behind a value for a part of it."""
    for page in (*PAGES, ROOT / ".env.example", ROOT / "deploy/compose.env.example"):
        assert re.findall(r"^TRYON_\w+=.* #.*$", page.read_text(), re.MULTILINE) == [], name_of(page)


def test_chaos_page_explains_every_finding() -> None:
    """In the order and the words of the code."""
    explained = re.findall(r"^\| `([a-z ]+)` \| (.*) \|$", text_of("docs/chaos.md"), re.MULTILINE)
    assert explained == [(kind.value, meaning) for kind, meaning in KINDS.items()]


def test_state_diagram_is_generated() -> None:
    """``tryon.protocol.states.mermaid`` draws it."""
    assert f"```mermaid\n{mermaid()}\n```" in text_of("docs/protocol.md")


def test_operations_page_explains_every_metric() -> None:
    """By its exported name, with type and labels, and no metric that does not exist."""
    exported = {
        f"{metric._name}{'_total' * (metric._type == 'counter')}": (metric._type, ", ".join(metric._labelnames))
        for metric in vars(telemetry_metrics).values()
        if isinstance(metric, MetricWrapperBase)
    }
    exported |= {name: ("gauge, `max`", ", ".join(labels)) for name, (_, labels) in FACTS.items()}
    row = r"^\| `(tryon_\w+)` \| ([\w, `]+) \| ([\w, ]*?) ?\|"
    explained = {name: (kind, labels) for name, kind, labels in re.findall(row, text_of("docs/operations.md"), re.M)}
    assert explained == exported
    assert len(exported) >= 40


def test_pages_name_only_existing_routes() -> None:
    """Paths may be written with placeholders."""
    paths = [re.sub(r"{\w+}", "[^/]+", row.path) for row in OPERATIONS]
    for page in PAGES:
        for called in re.findall(r"(?<![\w.])/api/[\w/{}<>….-]+(?<!\.)", page.read_text()):
            called = re.sub(r"{\w+}|<\w+>", "x", called).rstrip("/…")
            fits = any(re.fullmatch(path, called) or re.fullmatch(f"{path}/.*", called) for path in paths)
            assert fits or any(path.startswith(called) for path in paths), (name_of(page), called)


def test_decisions_are_listed_and_complete() -> None:
    """Each record has a number and four parts."""
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^\d+\. \[.*\]\((\d{4}-[\w-]+\.md)\)$", (folder / "README.md").read_text(), re.MULTILINE)
    records = sorted(path.name for path in folder.glob("0*.md"))
    assert listed == records
    assert len({name[:4] for name in records}) == len(records)
    for name in records:
        text = (folder / name).read_text()
        assert text.startswith(f"# {int(name[:4])}. "), name
        for part in ("Context", "Decision", "Consequences", "Considered"):
            assert text.count(f"**{part}.** ") == 1, (name, part)


# -- the log lines ---------------------------------------------------------------------

STABLE_LINES: Final = (
    "[<request id>] POST /api/tryon/sessions - Client: <address>",
    "Created session <id> for user <hash>",
    "Session state transition: <status> → <status>",
    "Processing session <id>",
    "Session <id> completed successfully",
    "Session <id> failed: <code>",
    "Saved input file: <key>",
    "[<request id>] Completed 201 in 0.034s",
    "[<request id>] Error after 0.456s: <error>",
    "Found 5 expired sessions to clean up",
    "Deleted input file: <key>",
    "Cleaned up expired session: <id>",
)
"""Log lines that operators grep for: they keep their words."""


@functools.cache
def texts() -> frozenset[str]:
    """Return every string of the product's code, pieces of f-strings too.

    No garbage is collected meanwhile: a greenlet that ends in the middle of a parse
    leaves Python's count of recursions wrong, which is a SystemError.
    """
    gc.collect()
    gc.disable()
    try:
        return _texts()
    finally:
        gc.enable()


def _texts() -> frozenset[str]:
    found: set[str] = set()
    for package in architecture.PRODUCT:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return frozenset(found)


def pattern_of(form: str) -> re.Pattern[str]:
    """Return what a format string can print."""
    return re.compile(re.sub(r"%[.\d]*[a-z]", "(?:.+?)", re.escape(form).replace("\\%", "%").replace("%\\.", "%.")))


@pytest.mark.parametrize("line", STABLE_LINES)
def test_log_line_keeps_its_words(line: str) -> None:
    """A line that operators grep for is still logged."""
    assert any(pattern_of(form).fullmatch(line) for form in texts() if "%" in form)


def test_operations_page_shows_existing_log_lines() -> None:
    """Every line of its example can be logged, and every line of its table too."""
    page = text_of("docs/operations.md").partition("## Logs")[2].partition("## Backup")[0]
    example = page.partition("```text\n")[2].partition("```")[0].splitlines()
    assert example
    for line in example:
        assert any(pattern_of(form).fullmatch(line) for form in texts() if "%" in form), line
    for cell in re.findall(r"^\| (`.*?) \| ", page, re.MULTILINE):
        for line in re.findall(r"`([^`]+)`", cell):
            for part in re.split(r"…|\[?<[^>]*>\]?|\d[\d.]*|SIG\w+|input|expired", line):
                assert any(part.strip(" ,;:") in text for text in texts()), line


# -- the drawing, the glossary, the guide ----------------------------------------------


def test_architecture_page_is_up_to_date() -> None:
    """``python -m testkit.architecture --write`` draws and lists today's code."""
    page = architecture.PAGE.read_text()
    assert page == architecture.written_page(page)


def test_every_module_tells_its_job() -> None:
    """The map of modules has a job for each, and the folders that matter."""
    rows = re.findall(r"^\| \[`(.+?)`\]\(\.\./(.+?)\) \| (.*) \|$", architecture.listing(), re.MULTILINE)
    assert [path for _, path, job in rows if not job] == []
    listed = {path for _, path, _ in rows}
    assert {"server/services.py", "worker/pickup.py", "static/tryon.js", "alembic/env.py", "faults/scene.py"} <= listed


def test_glossary_defines_each_word_once() -> None:
    """One word means one thing."""
    terms = Counter(re.findall(r"\*\*([\w -]+)\*\*(?=.*\|.*\|$)", text_of("docs/glossary.md"), re.MULTILINE))
    assert len(terms) > 50
    assert not {term for term, count in terms.items() if count > 1}


def test_contributing_names_at_most_two_files_per_question() -> None:
    """Each question of "where would I add" is answered by links to files."""
    table = text_of("CONTRIBUTING.md").partition("Where would I add")[2]
    rows = re.findall(r"^\| (?:an?|another) (.*?) \| (.*) \|$", table, re.MULTILINE)
    assert len(rows) >= 10
    for question, answer in rows:
        assert 1 <= len(set(re.findall(r"\]\(([^)]+)\)", answer))) <= 2, question


# -- the way through the pages ---------------------------------------------------------


def rendered_lines(text: str, columns: int = 100) -> int:
    """Return how many lines a page fills in a window of this width."""
    text = re.sub(r"<!--.*?-->\n", "", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    lines = 0
    for block in re.split(r"\n\n+", text):
        as_written = block.startswith(("```", "|", "- ", "#"))
        rows = block.splitlines() if as_written else [" ".join(block.split())]
        lines += 1 + sum(max(1, -(-len(row) // columns)) for row in rows)
    return lines


def test_readme_fits_two_screens() -> None:
    """Its name, a picture, the quick start, the promises, the way on."""
    assert rendered_lines(text_of("README.md")) <= 90
    assert re.search(r"!\[.+\]\(docs/tour\.webp\)", text_of("README.md"))


def linked(page: Path) -> set[Path]:
    """Return the pages and pictures that a page links to."""
    targets = re.findall(r"\]\(([^)\s#]+)", page.read_text())
    return {(page.parent / target).resolve() for target in targets if not target.startswith("http")}


def test_every_page_is_two_clicks_from_readme() -> None:
    """One click leads to the lists of pages and of decisions, the next one to each."""
    first = linked(ROOT / "README.md")
    second = {target for page in first if page.suffix == ".md" for target in linked(page)}
    assert set(PAGES) - first - second - {ROOT / "README.md"} == set()


def test_every_picture_is_shown_on_a_page() -> None:
    """A picture without a page is left over."""
    pictures = {path for path in (ROOT / "docs").iterdir() if path.suffix in (".png", ".jpg", ".webp")}
    assert pictures - {target for page in PAGES for target in linked(page)} == set()


# -- the words -------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_name_who_acts(page: Path) -> None:
    """A client, a worker, an operator: never a bare "whoever" or "nobody"."""
    found = re.findall(r"\b(?:whoever|somebody|everybody|nobody)\b", page.read_text(), re.IGNORECASE)
    assert found == []


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_have_targets(page: Path) -> None:
    """Files exist, and so do headings."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / name for name in (".env.example", *(path.name for path in ROOT.glob("requirements*.lock"))))],
    ids=name_of,
)
def test_pages_name_no_machine_or_registry(page: Path) -> None:
    """No path of one machine, no package host."""
    text = page.read_text()
    assert str(ROOT) not in text
    assert not re.search(r"/(?:home|Users|root|mnt)/\w", text)
    assert not re.search(r"\b(?:pypi|pythonhosted|npmjs|yarnpkg)\.(?:org|com)\b|--(?:extra-)?index-url", text)
