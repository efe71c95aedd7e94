"""Photos as callers have them, and the multipart body of an upload."""

from __future__ import annotations

import asyncio
import os
import secrets
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


def upload_body(image: bytes, garment: bytes | None, params: Params | None) -> tuple[str, bytes]:
    """Return the content type and the body of an upload (RFC 7578).

    The server judges photos by their content, so parts carry no type of their own.
    """
    boundary = secrets.token_hex(16)
    parts = [("image", 'filename="image"', image)]
    if garment is not None:
        parts.append(("garment", 'filename="garment"', garment))
    if params is not None:
        parts.append(("params", "", msgspec.json.encode(params)))
    pieces: list[bytes] = []
    for name, more, content in parts:
        disposition = "; ".join(filter(None, ("form-data", f'name="{name}"', more)))
        pieces += [f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode(), content, b"\r\n"]
    return f"multipart/form-data; boundary={boundary}", b"".join([*pieces, f"--{boundary}--\r\n".encode()])
