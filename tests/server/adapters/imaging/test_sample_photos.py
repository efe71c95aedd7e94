"""The photos of `tryon sample-photos`."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageOps

from server.adapters.imaging import sample_photos


@pytest.mark.parametrize("name", sorted(sample_photos.SIZES))
def test_photo_is_upright_after_its_orientation(photos: Path, name: str) -> None:
    """Each carries GPS data, and its red corner ends up at the top left."""
    with Image.open(photos / name) as picture:
        upright = ImageOps.exif_transpose(picture)
        assert upright.size == sample_photos.SIZES[name]
        assert dict(picture.getexif().get_ifd(0x8825)), "no GPS in it"
        if name != "garment.png":
            red, green, blue = upright.convert("RGB").resize((1, 1), box=(5, 5, 15, 15)).tobytes()
            assert red > 180
            assert max(green, blue) < 80
