"""The overlay with its networks, for the tests that look at pictures."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from testkit.contact_sheet import PEOPLE, encoded, photo_of
from testkit.garments import draw_garment
from testkit.plugin import missing
from worker.processors.overlay import weights

if TYPE_CHECKING:
    from worker.processors.overlay.fitting import Fitting
    from worker.processors.overlay.pose import Body
    from worker.processors.overlay.spline import Array

BACKGROUND, BODY, HEAD, HAND = 0, 80, 160, 240
"""Values of the pictures that say what each pixel of a drawn person is."""


@pytest.fixture(scope="session")
def installed() -> Path:
    """Return the folder of the weights, fetched if need be.

    The test is skipped with a loud reason without them or the extra.
    """
    if find_spec("cv2") is None:
        missing("the extra overlay (pip install -r requirements-overlay.lock)")
    folder = weights.default_folder()
    try:
        weights.install(folder)
    except weights.WeightsError as error:
        missing(f"the weights of the overlay: {error}")
    return folder


@pytest.fixture(scope="session")
def fitting(installed: Path) -> Fitting:
    """Return the overlay with its networks loaded."""
    from worker.processors.overlay.fitting import Fitting

    return Fitting(installed)


@dataclass(frozen=True, slots=True)
class Dressed:
    """A photo before and after, and what each of its pixels is."""

    before: Array
    after: Array
    labels: Array
    body: Body


@pytest.fixture(scope="session")
def dress(fitting: Fitting) -> Callable[[str, str], Dressed]:
    """Return a function that dresses a person; each pair is made once."""
    import cv2
    import numpy as np

    from worker.processors.overlay.fitting import PHOTO_SIDE, read_picture

    @cache
    def dressed(person: str, garment: str) -> Dressed:
        photo, _ = read_picture(photo_of(person), PHOTO_SIDE)
        pose, body = fitting.look(photo)
        cut = fitting.cut(encoded(draw_garment(garment)))
        result = fitting.dress(photo, cut, body, fitting.separate(photo, pose, body))
        after = cv2.imdecode(np.frombuffer(result, np.uint8), cv2.IMREAD_COLOR)
        labels = cv2.imread(str(PEOPLE / f"{person}-parts.png"), cv2.IMREAD_GRAYSCALE)
        assert after is not None
        assert labels is not None
        return Dressed(photo, after, labels, body)

    return dressed


def jpeg(picture: Image.Image) -> bytes:
    """Return the picture as a JPEG."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=92)
    return file.getvalue()
