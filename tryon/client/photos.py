"""Photos as callers have them, and the multipart body of an upload."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from tryon.protocol.views import Params

Photo = str | os.PathLike[str] | bytes | BinaryIO
"""A path, the content of an image file, or an open binary file."""


async def read_photo(photo: Photo) -> bytes:
    """Return the content of an image file. Raises OSError if it cannot be read."""
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, str | os.PathLike):
        return await asyncio.to_thread(Path(photo).read_bytes)
    return await asyncio.to_thread(photo.read)


Photos = Mapping[str, Photo | Sequence[Photo]]
"""Photos by role: one, or several in the order of their index."""


async def read_parts(image: Photo | None, garment: Photo | None, inputs: Photos) -> list[tuple[str, bytes]]:
    """Return the parts of an upload, each with its name and content.

    ``image`` stands for the processor's first role. Raises OSError for a file that
    cannot be read.
    """
    named: list[tuple[str, Photo]] = []
    named += [(name, photo) for name, photo in (("image", image), ("garment", garment)) if photo is not None]
    for role, photos in inputs.items():
        several = photos if isinstance(photos, Sequence) and not isinstance(photos, str | bytes) else [photos]
        named += [(role, photo) for photo in several]
    return [(name, await read_photo(photo)) for name, photo in named]


def upload_body(
    photos: Sequence[tuple[str, bytes]], params: Params | None, *, original: str | None = None
) -> tuple[str, bytes]:
    """Return the content type and the body of an upload (RFC 7578).

    The server judges photos by their content, so parts carry no type of their own.
    """
    boundary = secrets.token_hex(16)
    parts = [(name, f'filename="{name}"', content) for name, content in photos]
    if params is not None:
        parts.append(("params", "", msgspec.json.encode(params)))
    if original is not None:
        parts.append(("from", "", original.encode()))
    pieces: list[bytes] = []
    for name, more, content in parts:
        disposition = "; ".join(filter(None, ("form-data", f'name="{name}"', more)))
        pieces += [f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode(), content, b"\r\n"]
    return f"multipart/form-data; boundary={boundary}", b"".join([*pieces, f"--{boundary}--\r\n".encode()])
