"""The points of a garment lie where it was drawn."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from testkit.contact_sheet import encoded
from testkit.garments import CENTRE, GARMENTS, SIZE, draw_garment

if TYPE_CHECKING:
    from worker.processors.overlay.keypoints import Garment

pytestmark = [pytest.mark.xdist_group("overlay"), pytest.mark.usefixtures("installed")]


def garment_of(picture: Image.Image) -> Garment:
    from worker.processors.overlay.fitting import read_picture
    from worker.processors.overlay.keypoints import find_points
    from worker.processors.overlay.outline import cut_out

    pixels, alpha = read_picture(encoded(picture), max(SIZE))
    return find_points(pixels, cut_out(pixels, alpha))


@pytest.mark.parametrize("name", sorted(GARMENTS))
def test_garment_has_its_points(name: str) -> None:
    """Neck, hem, sleeves and armpits are found within a few pixels."""
    drawn, garment = GARMENTS[name], garment_of(draw_garment(name))
    assert garment.hem == pytest.approx(drawn.half[-1][1], abs=8)
    assert garment.centre == pytest.approx(CENTRE, abs=8)
    assert garment.sleeved is (drawn.seam is not None)
    for side, half in garment.halves.items():
        armpit = drawn.half[-3]
        assert side * (half.armpit[0] - CENTRE) == pytest.approx(armpit[0], abs=14)
        assert half.armpit[1] == pytest.approx(armpit[1], abs=40)  # a narrow gap closes
        assert side * (half.neck[0] - CENTRE) == pytest.approx(drawn.half[0][0], abs=16)
        if half.sleeve is not None:
            assert side * (half.sleeve.outer[0] - CENTRE) == pytest.approx(drawn.half[-5][0], abs=20)
            assert half.sleeve.inner[1] == pytest.approx(drawn.half[-4][1], abs=20)


def test_transparent_ground_is_trusted() -> None:
    """A cut-out garment is taken as it is, whatever colour lies under the alpha."""
    picture = draw_garment("white-tee").convert("RGBA")
    whole = garment_of(picture)
    alpha = Image.fromarray(whole.mask * 255)
    picture.paste((240, 238, 232), (0, 0, *picture.size))
    picture.putalpha(alpha)
    file = io.BytesIO()
    picture.save(file, "PNG")
    cut = garment_of(Image.open(file))
    assert (cut.mask == whole.mask).mean() > 0.995
