"""The static files as they are when the server starts, and the pages that name them.

Every file has two names. Its own one, such as ``/static/tryon.js``, stays: caches ask
before each use. ``/static/tryon.<hash>.js`` holds a hash of the content, and may be
kept for a year. The pages name the second: in their links, and for the modules that
import each other in an import map. ``static/`` needs no build step for that, and works
as it is written from any other server.

The pages, and the scripts and styles that they name, are compressed at the start too
(10 ms). Swagger UI, which alone takes 50 ms, waits for the first client that asks.

What the second name leads to lacks the comments that stand on lines of their own: a
sixth of the scripts as they are sent. Their lines stay, empty, so that errors name the
line of the source.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import re
from pathlib import Path, PurePosixPath
from typing import Final

from server.config.settings import ConfigError
from server.web.common.resources import IMMUTABLE, REVALIDATED, Resource
from tryon.protocol import paths
from tryon.protocol.errors import NotFound

PREFIX: Final = paths.STATIC.removesuffix("{path}")

PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of every file: scripts and styles of this server only."""

HEADERS: Final = {"Content-Security-Policy": PAGE_POLICY, "Referrer-Policy": "no-referrer"}
"""Headers of every file; a page may have another policy."""

MEDIA_TYPES: Final[dict[str, str]] = {
    ".css": "text/css",
    ".html": "text/html",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".json": "application/json",
    ".md": "text/markdown",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ts": "text/plain",
    ".txt": "text/plain",
    ".webp": "image/webp",
    "": "text/plain",
}
"""Media types by the end of the name. Those of the machine's own table differ."""

_COMMENT: Final = re.compile(r"^[ \t]*(?:/\*(?!!)(?:(?!\*/)[\s\S])*\*/[ \t]*|//.*)$", re.MULTILINE)
"""A comment on lines of its own, but for one with a licence (``/*!``)."""
_HASHED: Final = re.compile(r"(.+)\.([0-9a-f]{16})(\.[a-z0-9]+)", re.ASCII)
_NAMED: Final = re.compile(r'(?<=\s)(src|href)="/static/([^"?#]+)"')
_FIRST: Final = re.compile(r"<(?:link|script)\b")


def static_directory() -> Path:
    """Return the folder of the static files.

    In a checkout it stands beside the packages, in an installed wheel inside the
    package. Raises ConfigError if it is in neither place.
    """
    package = Path(__file__).resolve().parents[2]
    for folder in (package.parent / "static", package / "static"):
        if (folder / "index.html").is_file():
            return folder
    raise ConfigError("the static files are missing from this installation")


class StaticFiles:
    """The files of a folder, read once: what a hash names never changes."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Resource] = {}
        self._lasting: dict[str, Resource] = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                name = path.relative_to(folder).as_posix()
                own = self._files[name] = Resource(path.read_bytes(), _media_type(name), HEADERS)
                bare = without_comments(own.data) if _is_ours(name) else own.data
                self._lasting[name] = own if bare == own.data else Resource(bare, own.media_type, HEADERS)
                if _is_ours(name):
                    self._lasting[name].compress()

    def __repr__(self) -> str:
        return f"<StaticFiles {len(self._files)}>"

    def find(self, name: str) -> tuple[Resource, str]:
        """Return a file by either of its names, and its Cache-Control.

        The hash of another release's file leads to the file as it is here, which no
        cache may keep under that name: while releases change, a page of one may ask a
        server of the other. Raises NotFound.
        """
        if (found := self._files.get(name)) is not None:
            return found, REVALIDATED
        if match := _HASHED.fullmatch(name):
            stem, digest, extension = match.groups()
            if (found := self._lasting.get(stem + extension)) is not None:
                return found, IMMUTABLE if digest == found.digest else REVALIDATED
        raise NotFound

    def hashed_name(self, name: str) -> str:
        """Return the name with the hash of a file's content. Raises KeyError."""
        path = PurePosixPath(name)
        return str(path.with_name(f"{path.stem}.{self._lasting[name].digest}{path.suffix}"))

    def page(self, name: str) -> Resource:
        """Return a page that names files by their hashes.

        Its policy allows the import map, which can only stand in the page itself.
        """
        text = self._files[name].data.decode()
        modules = [module for module in self._files if module.endswith(".js")]
        imports = {PREFIX + module: PREFIX + self.hashed_name(module) for module in modules}
        import_map = json.dumps({"imports": imports}, separators=(",", ":"))
        text = _NAMED.sub(self._named_by_hash, text)
        script = f'<script type="importmap">{import_map}</script>\n    '
        if first := _FIRST.search(text):  # before the first module, or browsers ignore it
            text = text[: first.start()] + script + text[first.start() :]
        allowed = base64.b64encode(hashlib.sha256(import_map.encode()).digest()).decode()
        policy = PAGE_POLICY.replace("script-src 'self'", f"script-src 'self' 'sha256-{allowed}'")
        page = Resource(text.encode(), "text/html", HEADERS | {"Content-Security-Policy": policy})
        page.compress()
        return page

    def _named_by_hash(self, match: re.Match[str]) -> str:
        attribute, name = match.groups()
        known = html.unescape(name)
        return f'{attribute}="{PREFIX}{self.hashed_name(known)}"' if known in self._files else match[0]


def without_comments(data: bytes) -> bytes:
    """Return a script or a style with empty lines for its comments."""
    return _COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), data.decode()).encode()


def _is_ours(name: str) -> bool:
    return name.endswith((".css", ".js")) and "vendor" not in PurePosixPath(name).parts


def _media_type(name: str) -> str:
    return MEDIA_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")


@functools.cache
def static_files() -> StaticFiles:
    """Return the product's own files.

    Raises ConfigError if they are missing, or cannot be read.
    """
    try:
        return StaticFiles(static_directory())
    except OSError as error:
        raise ConfigError(f"the static files cannot be read: {error.filename}: {error.strerror}") from None
