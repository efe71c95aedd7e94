"""What the demo page weighs on its way to its first view."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Final

from server.web.api.static_files import without_comments
from testkit.processes import ROOT

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
    return sum(len(gzip.compress(without_comments(path.read_bytes()), mtime=0)) for path in paths)


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
