"""The weight of the demo page up to its first view, and up to a result."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from server.web.api.static_files import static_files
from testkit.processes import ROOT

STATIC: Final = ROOT / "static"
FIRST_VIEW_BYTES: Final = 30_000
"""Scripts and styles of the first view, compressed."""
RESULT_BYTES: Final = 50_000
"""All that a try-on loads up to its result and the slider, compressed."""
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


def weight(paths: set[Path]) -> tuple[int, int]:
    """Return the bytes of the files as the page gets them: plain, and compressed."""
    files = static_files()
    names = [files.hashed_name(path.relative_to(STATIC).as_posix()) for path in paths]
    found = [files.find(name)[0] for name in names]
    return sum(len(each.data) for each in found), sum(len(each.compress()) for each in found)


def test_first_view_is_light() -> None:
    """Everything else is loaded later: a run's modules with the first picture."""
    first = closure("app/main.js") | {STATIC / "style.css"}
    later = {STATIC / name for name in ("app/check.js", "app/compare.js", "app/compare.css", "tryon-progress.js")}
    (plain, compressed), (all_plain, to_result) = weight(first), weight(first | closure("app/run.js") | later)
    said = f"first view: {plain} bytes, {compressed} compressed; to the result: {all_plain}, {to_result} compressed"
    print(said)
    assert compressed <= FIRST_VIEW_BYTES, said
    assert to_result <= RESULT_BYTES, said


def test_page_preloads_what_it_imports_at_once() -> None:
    """Without them each module would wait for the one before."""
    page = (STATIC / "index.html").read_text()
    preloaded = {STATIC / name for name in re.findall(r'rel="modulepreload" href="/static/([^"]+)"', page)}
    assert preloaded == closure("app/main.js") - {STATIC / "app" / "main.js"}
