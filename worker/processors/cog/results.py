"""Read the files of a prediction out of its ``output``.

A model returns a file, a list of them, or an object with files by name. A file is a
data URL, or a link if the Cog server was started with ``--upload-url``.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tryon.processor import OUTPUT_TYPES

MAX_FILES: Final = 64
"""Maximum number of files in one output."""
MAX_LINK_BYTES: Final = 8192
"""JSON of all links in a checkpoint; longer ones are left out."""

_DATA_URL: Final = re.compile(r"data:[^,]{0,200};base64,", re.I)

_SIGNATURES: Final = (
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"RIFF....WEBP", re.S), "image/webp"),
    (re.compile(rb"....ftyp", re.S), "video/mp4"),
    (re.compile(rb"\x1aE\xdf\xa3"), "video/webm"),
)
"""The first bytes of a file, and its type."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of an output: a data URL or a link."""

    role: str
    url: str

    @property
    def is_link(self) -> bool:
        return self.url.startswith(("http://", "https://"))


def files_of(output: object, roles: Mapping[str, str]) -> list[File]:
    """Return the files of an output, in its order.

    ``roles`` has the role of each named file that is wanted; without it every file is a
    ``result``. Raises ValueError: there is none, or there are too many.
    """
    found = list(_walk(output, roles))
    if not 0 < len(found) <= MAX_FILES:
        raise ValueError(f"the output has {len(found)} files")
    return found


def links_of(files: Sequence[File]) -> list[list[str]]:
    """Return role and URL of each file for a checkpoint.

    Empty if a file is no link, or the links are too long.
    """
    links = [[each.role, each.url] for each in files if each.is_link]
    fit = all(each.is_link for each in files) and len(json.dumps(links)) <= MAX_LINK_BYTES
    return links if fit else []


def _walk(output: object, roles: Mapping[str, str], role: str = "result") -> Iterable[File]:
    match output:
        case str() if _DATA_URL.match(output) or output.startswith(("http://", "https://")):
            yield File(role, output)
        case list():
            for each in output:
                yield from _walk(each, roles, role)
        case dict():
            for name in roles or output:
                yield from _walk(output.get(name), roles, roles.get(name, role))


def decode(url: str) -> bytes:
    """Return the content of a data URL. Blocks.

    Raises ValueError: it is malformed.
    """
    return binascii.a2b_base64(url[url.index(",") + 1 :], strict_mode=True)


def type_of(data: bytes) -> str:
    """Return the type of a file by its first bytes.

    Raises ValueError: it is none of :data:`~tryon.processor.OUTPUT_TYPES`.
    """
    for signature, media_type in _SIGNATURES:
        if signature.match(data):
            assert media_type in OUTPUT_TYPES
            return media_type
    raise ValueError("a file of the output is no picture or video")
