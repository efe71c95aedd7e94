"""Results of processors, honest and hostile, and what must hold of them."""

from __future__ import annotations

import io
import re
import struct

import pytest
from PIL import Image

from server.adapters.imaging.outputs.verifier import Shown, verify
from server.adapters.imaging.sample_photos import SECRETS
from server.domain.images import Limits
from server.domain.outputs import output_limits
from testkit.originals import plain
from testkit.photos import encoded
from tryon.protocol.errors import TryOnError

LIMITS = output_limits(1_000_000)
TERM = "http://cv.iptc.org/newscodes/digitalsourcetype/"
FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}


def verified(data: bytes, type: str, *, generated: bool = False, limits: Limits = LIMITS) -> Shown:
    return verify(io.BytesIO(data), type, limits, generated=generated)


def refused(data: bytes, type: str, limits: Limits = LIMITS) -> str:
    with pytest.raises(TryOnError) as caught:
        verified(data, type, limits=limits)
    return caught.value.code


def picture(type: str, **options: object) -> bytes:
    return encoded(plain(80), FORMATS[type], **options)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def assert_no_metadata(data: bytes) -> None:
    """Assert that no text of the samples' metadata stands in the file, nor any EXIF."""
    assert [secret for secret in SECRETS if secret in data] == []
    assert b"Exif" not in data
    assert not opened(data).getexif()


def marks(data: bytes) -> list[str]:
    """Return the digital source types that the file states."""
    return [word.decode() for word in re.findall(rb"digitalsourcetype/([A-Za-z]+)", data)]


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """Insert a segment behind the JFIF segment."""
    at = 4 + int.from_bytes(jpeg[4:6])
    return jpeg[:at] + bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2) + content + jpeg[at:]


def with_webp_chunks(webp: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Append chunks to a WebP, each of an even length."""
    body = webp[8:] + b"".join(name + struct.pack("<I", len(content)) + content for name, content in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jumbf(label: bytes, *contents: bytes) -> bytes:
    """Return a JUMBF box (ISO 19566-5) with a label."""
    described = bytes(16) + b"\3" + label + b"\0"
    body = struct.pack(">I4s", 8 + len(described), b"jumd") + described + b"".join(contents)
    return struct.pack(">I4s", 8 + len(body), b"jumb") + body


def manifest(*assertions: bytes, stated: bool = True) -> bytes:
    """Return a C2PA manifest; ``stated``: it says that a model has made the picture."""
    source = b"digitalSourceType " + TERM.encode() + b"trainedAlgorithmicMedia " if stated else b""
    actions = jumbf(b"c2pa.actions.v2", source)
    known = [actions, jumbf(b"c2pa.hash.data"), jumbf(b"c2pa.ingredient__1"), *assertions]
    parts = [jumbf(b"c2pa.assertions", *known), jumbf(b"c2pa.claim.v2"), jumbf(b"c2pa.signature")]
    return jumbf(b"c2pa", jumbf(b"urn:uuid:0a4d72c4-9c1e-4a7b-8a5f-1f0f3c1d2e9b", *parts))
