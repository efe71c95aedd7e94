"""Pictures of high dynamic range become what a usual screen shows."""

from __future__ import annotations

import itertools
import struct

import pytest

from server.adapters.imaging.pool import ACCEPTED
from server.adapters.imaging.tone_mapping import USUAL_PEAK, WHITE, mapped
from server.domain.images import ImageFormat
from testkit.photos import centres, cicp, encoded, patches, png_chunk, with_chunks, with_nclx
from tests.server.adapters.imaging.pictures import cleaned, opened

PQ_2020 = [(255, 0, 0), (0, 242, 0), (0, 0, 255), (255, 139, 0), (255, 85, 55), (132, 132, 132)]
HLG_2020 = [(255, 0, 0), (0, 153, 15), (0, 38, 212), (255, 173, 0), (255, 134, 109), (99, 99, 99)]
"""The patches as Chromium 156 shows them, with cICP 9/16 and 9/18."""


@pytest.mark.parametrize(("transfer", "expected"), [(16, PQ_2020), (18, HLG_2020)])
def test_hdr_png_is_shown_as_chromium_shows_it(transfer: int, expected: list[tuple[int, ...]]) -> None:
    """PQ and HLG of BT.2020 come out as a browser maps them."""
    stored = centres(opened(cleaned(with_chunks(encoded(patches(), "PNG"), cicp(9, transfer)))))
    for number, (pixel, right) in enumerate(zip(stored, expected, strict=True)):
        assert max(abs(one - other) for one, other in zip(pixel, right, strict=True)) <= 4, (number, pixel, right)


@pytest.mark.skipif(ImageFormat.AVIF not in ACCEPTED, reason="this Pillow has no AVIF decoder")
def test_hdr_avif_is_shown_as_its_png() -> None:
    """An AVIF with the same numbers comes out alike."""
    avif = encoded(patches(), "AVIF", quality=97, subsampling="4:4:4")
    grey = centres(opened(cleaned(with_nclx(avif, 9, 16))))[-1]
    assert max(abs(part - 132) for part in grey) <= 5


def test_content_light_level_moves_the_peak() -> None:
    """A picture that is never bright is darkened less."""
    data = encoded(patches(), "PNG")
    dim = png_chunk(b"cLLI", struct.pack(">II", 300 * 10_000, 100 * 10_000))
    usual = centres(opened(cleaned(with_chunks(data, cicp(9, 16)))))[-1]
    brighter = centres(opened(cleaned(with_chunks(data, cicp(9, 16), dim))))[-1]
    assert brighter[0] > usual[0] + 20


@pytest.mark.parametrize("peak", [1.0, 1.5, USUAL_PEAK / WHITE, 49.0])
def test_mapping_rises_to_white(peak: float) -> None:
    """The curve has no step and ends in white at the peak."""
    levels = [mapped(peak * n / 500, peak) for n in range(501)]
    assert levels[0] == 0
    assert levels[-1] == pytest.approx(1)
    assert all(0 <= after - before < 0.1 for before, after in itertools.pairwise(levels))


def test_half_of_reference_white_is_shown_at_usual_peak() -> None:
    """Reference white of a picture for 1,000 cd/m² is half of a screen's white."""
    assert mapped(1.0, USUAL_PEAK / WHITE) == pytest.approx(0.5)
