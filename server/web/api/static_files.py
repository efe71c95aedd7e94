"""The static files as they are when the server starts, and the pages that name them.

Every file has two names. Its own one, such as ``/static/tryon.js``, stays: caches ask
before each use. ``/static/tryon.<hash>.js`` holds a hash of the content, and may be
kept for a year. The pages name the second: in their links, and for the modules that
import each other in an import map. ``static/`` needs no build step for that, and works
as it is written from any other server.
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
from tryon.protocol.errors import NotFound

PREFIX: Final = "/static/"

PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of every page: scripts and styles of this server only."""

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
        headers = {"Content-Security-Policy": PAGE_POLICY, "Referrer-Policy": "no-referrer"}
        self._files = {
            path.relative_to(folder).as_posix(): Resource(path.read_bytes(), _media_type(path.name), headers)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }

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
            if (found := self._files.get(stem + extension)) is not None:
                return found, IMMUTABLE if digest == found.digest else REVALIDATED
        raise NotFound

    def hashed_name(self, name: str) -> str:
        """Return the name with the hash of a file's content. Raises KeyError."""
        path = PurePosixPath(name)
        return str(path.with_name(f"{path.stem}.{self._files[name].digest}{path.suffix}"))

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
        return Resource(
            text.encode(), "text/html", {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
        )

    def _named_by_hash(self, match: re.Match[str]) -> str:
        attribute, name = match.groups()
        known = html.unescape(name)
        return f'{attribute}="{PREFIX}{self.hashed_name(known)}"' if known in self._files else match[0]


def _media_type(name: str) -> str:
    return MEDIA_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")


@functools.cache
def static_files() -> StaticFiles:
    """Return the product's own files. Raises ConfigError as static_directory."""
    return StaticFiles(static_directory())
