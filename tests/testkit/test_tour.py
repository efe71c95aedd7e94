"""testkit/tour.py: a film keeps the time that passed, and the page can be walked."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from testkit.fixtures import StartStack
from testkit.tour import MAX_BYTES, TARGET, Shot, encoded, film, timed


def drawn(place: int) -> bytes:
    """Return a picture with something at ``place``."""
    picture = Image.new("RGB", (80, 60), "white")
    ImageDraw.Draw(picture).rectangle((place, 10, place + 20, 40), fill="navy")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@given(st.lists(st.floats(0, 30), min_size=1, max_size=40), st.floats(0.01, 1))
def test_times_add_up_to_what_passed(times: list[float], least: float) -> None:
    """The length stays, and every picture but the last stands long enough."""
    times.sort()
    pictures = timed([Shot(at, str(at).encode()) for at in times], times[-1] + 2, least)
    lengths = [milliseconds for _, milliseconds in pictures]
    assert sum(lengths) == round((times[-1] + 2 - times[0]) * 1000)
    assert all(length >= 1000 * least - 1 for length in lengths[:-1])
    assert pictures[-1][0] == str(times[-1]).encode()


def test_written_picture_moves_for_as_long_as_it_took() -> None:
    """An animated WebP has each picture with its time."""
    data = encoded([(drawn(0), 300), (drawn(20), 700), (drawn(40), 1500)], width=40)
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size, picture.n_frames) == ("WEBP", (40, 30), 3)  # type: ignore[attr-defined]
        lengths = []
        for frame in range(3):
            picture.seek(frame)
            picture.load()
            lengths.append(picture.info["duration"])
    assert lengths == [300, 700, 1500]


def test_tour_of_readme_moves_and_is_light() -> None:
    """The written file is the one that the README shows."""
    assert TARGET.stat().st_size <= MAX_BYTES
    with Image.open(TARGET) as picture:
        assert picture.n_frames > 20  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.xdist_group("chromium")
async def test_walk_films_every_moment(stack: StartStack) -> None:
    """From the first view to the compared result, with any processor."""
    pictures = await film((await stack(TRYON_MOCK_SECONDS="1")).url, pause_ms=60)
    assert len(pictures) > 10
    assert sum(milliseconds for _, milliseconds in pictures) > 2000
