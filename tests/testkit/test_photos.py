"""The photos of the fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageOps

from testkit import photos as photo_maker


@pytest.mark.parametrize("name", sorted(photo_maker.SIZES))
def test_photo_is_upright_after_its_orientation(photos: Path, name: str) -> None:
    """Each carries GPS data, and its red corner ends up at the top left."""
    with Image.open(photos / name) as picture:
        upright = ImageOps.exif_transpose(picture)
        assert upright.size == photo_maker.SIZES[name]
        assert dict(picture.getexif().get_ifd(0x8825)), "no GPS in it"
        if name != "garment.png":
            red, green, blue = upright.convert("RGB").resize((1, 1), box=(5, 5, 15, 15)).tobytes()
            assert red > 180
            assert max(green, blue) < 80
