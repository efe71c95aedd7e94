"""One part of a form: in memory, or in an anonymous file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from server.web.api.parts import Part
from tests.server.web.api.forms import JPEG
from tryon.processor.interface import Role
from tryon.protocol.errors import UnsupportedMedia

PERSON = Role(name="person")


def test_part_hands_out_memory() -> None:
    """Content and digest are those of all appended bytes."""
    part = Part("image", PERSON, fingerprint=True)
    for at in range(0, len(JPEG), 7):
        part.append(JPEG[at : at + 7])
    assert (part.size, part.pending, part.spilt) == (len(JPEG), len(JPEG), False)
    with part.content() as content:
        assert content.read() == JPEG
    assert part.digest() == hashlib.sha256(JPEG).digest()


def test_part_hands_out_file_from_its_start(tmp_path: Path) -> None:
    """Bytes on disk and bytes in memory come back in order; the file has no name."""
    part = Part("image", PERSON, fingerprint=True)
    part.append(JPEG)
    part.write(tmp_path)
    assert (part.pending, part.spilt, list(tmp_path.iterdir())) == (0, True, [])
    part.append(b"more")
    part.rewind(tmp_path)
    with part.content() as content:
        part.close()  # closes no content that was handed out
        assert content.read() == JPEG + b"more"
    assert part.digest() == hashlib.sha256(JPEG + b"more").digest()


def test_part_without_fingerprint_has_no_digest() -> None:
    """Hashing costs time, so it is done only where a key asks for it."""
    part = Part("garment", PERSON, fingerprint=False)
    part.append(JPEG)
    part.content().close()
    assert part.digest() == b""


def test_part_checks_first_bytes_of_images_only() -> None:
    """An image is refused with its first bytes; params may begin with anything."""
    with pytest.raises(UnsupportedMedia):
        Part("image", PERSON, fingerprint=False).append(b"GIF89a" + bytes(26))
    Part("params", fingerprint=False).append(b"GIF89a" + bytes(26))


def test_closed_part_keeps_nothing(tmp_path: Path) -> None:
    """Neither bytes in memory nor the file are left."""
    part = Part("image", PERSON, fingerprint=False)
    part.append(JPEG)
    part.write(tmp_path)
    part.append(JPEG)
    part.close()
    assert (part.pending, part.spilt) == (0, False)
