"""Static files: two names for each, and pages that use the lasting one."""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from server.config.settings import ConfigError
from server.web.api.static_files import MEDIA_TYPES, StaticFiles, static_directory, static_files
from server.web.common.resources import IMMUTABLE, REVALIDATED
from tryon.protocol.errors import NotFound

PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <link rel="stylesheet" href="/static/style.css">
    <link rel="modulepreload" href="/static/app/words.js">
    <script type="module" src="/static/app/main.js"></script>
  </head>
  <body><a href="/static/missing.js">"/static/style.css"</a><img src="/static/samples/a.webp" alt=""></body>
</html>
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a small folder of static files."""
    files = {
        "index.html": PAGE,
        "style.css": "a {}",
        "app/main.js": 'import "./words.js";',
        "app/words.js": "export const a = 1;",
        "samples/a.webp": "picture",
        ".hidden": "secret",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def import_map(page: str) -> Any:
    """Return the import map of a page."""
    found = re.search(r'<script type="importmap">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def test_file_has_a_name_that_lasts(folder: Path) -> None:
    """Under the hash of its content a cache keeps it; under its own it asks."""
    files = StaticFiles(folder)
    name = files.hashed_name("app/words.js")
    assert name == f"app/words.{digest('export const a = 1;')}.js"
    lasting, stable = files.find(name), files.find("app/words.js")
    assert lasting == (stable[0], IMMUTABLE) and stable[1] == REVALIDATED
    assert stable[0].media_type == "text/javascript"


def test_hash_of_another_release_is_not_cached(folder: Path) -> None:
    """A page of the release before loads, and no cache has one file for another."""
    resource, cache_control = StaticFiles(folder).find(f"style.{'0' * 16}.css")
    assert (resource.data, cache_control) == (b"a {}", REVALIDATED)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../secret", ".hidden", "app", "app/", "style.css/", "x" * 3000, "a\0"]
)
def test_only_files_of_the_folder_are_found(folder: Path, name: str) -> None:
    """No folder, no hidden file, and nothing outside."""
    with pytest.raises(NotFound):
        StaticFiles(folder).find(name)


def test_files_stay_as_they_were_at_the_start(folder: Path) -> None:
    """A hash names the same content after an upgrade has changed the folder."""
    files = StaticFiles(folder)
    name = files.hashed_name("style.css")
    (folder / "style.css").write_text("b {}")
    assert files.find(name)[0].data == b"a {}"


def test_page_names_files_by_their_hashes(folder: Path) -> None:
    """In links and, for modules that import each other, in the import map."""
    page = StaticFiles(folder).page("index.html").data.decode()
    words = f"/static/app/words.{digest('export const a = 1;')}.js"
    main = "/static/app/main.{}.js".format(digest('import "./words.js";'))
    assert f'<link rel="modulepreload" href="{words}">' in page
    assert f'<script type="module" src="{main}"></script>' in page
    assert f'<img src="/static/samples/a.{digest("picture")}.webp" alt="">' in page
    assert '<a href="/static/missing.js">"/static/style.css"</a>' in page
    assert import_map(page) == {"imports": {"/static/app/main.js": main, "/static/app/words.js": words}}
    assert page.index("importmap") < page.index("modulepreload")


def test_page_without_hashes_is_the_file(folder: Path) -> None:
    """Nothing else of the page is changed."""
    page = StaticFiles(folder).page("index.html").data.decode()
    page = re.sub(r"<script type=\"importmap\">.*?</script>\n    ", "", page)
    assert re.sub(r"\.[0-9a-f]{16}\.", ".", page) == PAGE


def test_page_policy_allows_its_import_map_only(folder: Path) -> None:
    """By its hash; no other inline script runs."""
    page = StaticFiles(folder).page("index.html")
    script = re.search(r"<script type=\"importmap\">(.*?)</script>", page.data.decode())
    assert script
    hashed = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'self' 'sha256-{hashed}';" in page.headers["Content-Security-Policy"]


def test_lasting_file_has_no_comments(folder: Path) -> None:
    """Its lines keep their numbers; the file under its own name is as it is written."""
    text = '/**\n * Words.\n */\n/*! licence */\nexport const a = "/*"; /* one */\n  /* two */\nexport const b = 1;\n'
    (folder / "app/words.js").write_text(text)
    (folder / "vendor").mkdir()
    (folder / "vendor/theirs.js").write_text(text)
    files = StaticFiles(folder)
    assert files.find("app/words.js")[0].data == text.encode()
    bare = files.find(files.hashed_name("app/words.js"))[0].data.decode()
    assert bare == '\n\n\n/*! licence */\nexport const a = "/*"; /* one */\n\nexport const b = 1;\n'
    assert files.find(files.hashed_name("vendor/theirs.js"))[0].data == text.encode()


async def test_own_files_are_compressed_at_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first visitor waits for none of them, only for the ones of others."""
    (folder / "vendor").mkdir()
    (folder / "vendor/theirs.js").write_text("export const b = 2;")
    files = StaticFiles(folder)
    page = files.page("index.html")
    later: list[bytes] = []

    def compress(data: bytes, *, mtime: int) -> bytes:
        later.append(data)
        return b"packed"

    monkeypatch.setattr(gzip, "compress", compress)
    scripts = [files.find(files.hashed_name(name))[0] for name in ("app/main.js", "style.css", "vendor/theirs.js")]
    packed = [await resource.compressed() for resource in (page, *scripts)]
    assert gzip.decompress(packed[0]) == page.data
    assert later == [b"export const b = 2;"]


def test_every_static_file_has_a_known_type() -> None:
    """The machine's own table of types is not asked."""
    folder = static_directory()
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert suffixes <= set(MEDIA_TYPES)
    assert static_files() is static_files()


def test_unreadable_files_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, as all that keeps a server from its start."""

    def denied(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ConfigError, match=r"^the static files cannot be read: /.*: Permission denied$"):
        static_files.__wrapped__()
