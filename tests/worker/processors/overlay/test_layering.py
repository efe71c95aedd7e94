"""What a dressed person looks like: pixels are compared with the photo's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.worker.processors.overlay.conftest import BACKGROUND, HAND, HEAD

if TYPE_CHECKING:
    from tests.worker.processors.overlay.conftest import Dressed

pytestmark = pytest.mark.xdist_group("overlay")

PAIRS = (("ada", "striped-tee"), ("ben", "sun-tee"), ("cleo", "navy-sweater"), ("dan", "violet-top"))

Dress = Callable[[str, str], "Dressed"]


def changed(dressed: Dressed) -> Any:
    """Return how much each pixel changed: 0 to 255, blurred against JPEG's noise."""
    import cv2

    difference = cv2.absdiff(dressed.before, dressed.after).max(2)
    return cv2.GaussianBlur(difference.astype("float32"), (0, 0), 1.5)


@pytest.mark.parametrize(("person", "garment"), PAIRS)
def test_overlay_leaves_head_and_hands_unchanged(dress: Dress, person: str, garment: str) -> None:
    """Face, hair, ears and fingers are the photo's, up to JPEG's own noise."""
    import cv2
    import numpy as np

    dressed = dress(person, garment)
    for label, most in ((HEAD, 3.0), (HAND, 6.0)):
        inside = cv2.erode((dressed.labels == label).astype(np.uint8), np.ones((7, 7))) > 0
        assert inside.any()
        assert float(changed(dressed)[inside].mean()) < most, f"label {label}"


@pytest.mark.parametrize(("person", "garment"), PAIRS)
def test_overlay_covers_the_trunk(dress: Dress, person: str, garment: str) -> None:
    """Nearly every pixel between the shoulders and above the hips is the garment's."""
    import cv2
    import numpy as np

    dressed = dress(person, garment)
    body, trunk = dressed.body, np.zeros(dressed.labels.shape, np.uint8)
    width = np.array([0.3 * body.width, 0])
    corners = [body.spine(0.25) - width, body.spine(0.25) + width, body.spine(0.85) + width, body.spine(0.85) - width]
    cv2.fillConvexPoly(trunk, np.array(corners).astype(np.int32), 1)
    assert float((changed(dressed)[trunk > 0] > 12).mean()) > 0.97


@pytest.mark.parametrize(("person", "garment"), PAIRS)
def test_overlay_ends_at_the_hips(dress: Dress, person: str, garment: str) -> None:
    """Legs and shoes are the photo's."""
    dressed = dress(person, garment)
    below = changed(dressed)[int(dressed.body.spine(1.4)[1]) :]
    assert float(below.mean()) < 2.0


@pytest.mark.parametrize(("person", "garment"), PAIRS)
def test_overlay_leaves_the_ground_alone(dress: Dress, person: str, garment: str) -> None:
    """Nothing of the garment lies on the background, further off than cloth hangs."""
    import cv2
    import numpy as np

    dressed = dress(person, garment)
    reach = 2 * int(0.11 * dressed.body.width) + 1
    near = cv2.dilate((dressed.labels != BACKGROUND).astype(np.uint8), np.ones((reach, reach)))
    assert float(changed(dressed)[near == 0].max()) < 12


def test_overlay_gives_bare_arms_to_old_sleeves(dress: Dress) -> None:
    """Under a top without sleeves the arm is skin where the old sleeve was."""
    import cv2
    import numpy as np

    dressed = dress("dan", "violet-top")
    body = dressed.body
    arm = body.shoulder[1] + (body.elbow[1] - body.shoulder[1]) * 0.6 + body.outward(1) * 0.08 * body.width
    fore_arm = body.elbow[1] + (body.wrist[1] - body.elbow[1]) * 0.5

    def colour(picture: Any, at: Any) -> Any:
        x, y = (int(v) for v in at)
        patch = picture[y - 3 : y + 4, x - 3 : x + 4]
        return cv2.cvtColor(patch, cv2.COLOR_BGR2LAB).reshape(-1, 3).astype(float).mean(0)

    skin = colour(dressed.before, fore_arm)
    assert np.abs(colour(dressed.before, arm) - skin).max() > 12
    assert np.abs(colour(dressed.after, arm) - skin)[1:].max() < 10
