"""What the demo page weighs on its way, and what is left out to make it lighter."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Final

import pytest

from server.web.api.static_files import slim
from testkit.processes import ROOT
from tests.static.test_package import run_tool

pytestmark = pytest.mark.xdist_group("npm")

STATIC: Final = ROOT / "static"
FIRST_VIEW_BYTES: Final = 30_000
"""Scripts and styles of the first view, compressed."""
IMPORT: Final = re.compile(r'^(?:import|export)\s[^;]*?from "(\.[^"]+)"', re.MULTILINE)


def closure(name: str) -> set[Path]:
    """Return a module with everything that it imports at once."""
    found: set[Path] = set()
    waiting = [(STATIC / name).resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [(path.parent / each).resolve() for each in IMPORT.findall(path.read_text())]
    return found


def sent(paths: set[Path]) -> int:
    return sum(len(gzip.compress(slim(path.read_text()).encode(), mtime=0)) for path in paths)


def test_first_view_is_light() -> None:
    """Everything else is loaded later: a run's modules with the first picture."""
    first = closure("app/main.js") | {STATIC / "style.css"}
    whole = first | closure("app/run.js") | {STATIC / "app" / "check.js", STATIC / "tryon-progress.js"}
    raw = sum(path.stat().st_size for path in first)
    print(f"first view {raw} bytes, {sent(first)} compressed; to the result {sent(whole)} compressed")
    assert sent(first) <= FIRST_VIEW_BYTES


def test_page_preloads_what_it_imports_at_once() -> None:
    """Without them each module would wait for the one before."""
    page = (STATIC / "index.html").read_text()
    preloaded = {STATIC / name for name in re.findall(r'rel="modulepreload" href="/static/([^"]+)"', page)}
    assert preloaded == closure("app/main.js") - {STATIC / "app" / "main.js"}


def test_slim_script_does_the_same(tmp_path: Path) -> None:
    """A minifier makes the same of it as of the source."""
    names = [path.relative_to(STATIC) for path in sorted(STATIC.rglob("*")) if path.suffix in (".js", ".css")]
    own = [str(name) for name in names if "vendor" not in name.parts]
    for folder in ("written", "slim"):
        for name in own:
            text = (STATIC / name).read_text()
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text if folder == "written" else slim(text))
        run_tool("esbuild", "--minify", "--outdir=out", *own, folder=tmp_path / folder)
    for name in own:
        assert (tmp_path / "slim" / "out" / name).read_text() == (tmp_path / "written" / "out" / name).read_text(), name


def test_slim_leaves_templates_alone() -> None:
    """What looks like a comment may be a part of one."""
    text = "const a = `\n  // no comment\n`;\n"
    assert slim(text) == text
    assert slim("/** A. */\nconst a = 1; // b\n  // c\n/*\n d */\nlet b;\n") == "const a = 1; // b\nlet b;"
