"""What the overlay refuses, by code and in words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageDraw

from testkit.contact_sheet import encoded, photo_of
from testkit.garments import draw_garment
from tests.worker.processors.overlay.conftest import jpeg
from tryon.processor import ProcessorError

if TYPE_CHECKING:
    from worker.processors.overlay.fitting import Fitting
    from worker.processors.overlay.pose import Body, Pose

pytestmark = pytest.mark.xdist_group("overlay")


def look(fitting: Fitting, data: bytes) -> tuple[Pose, Body]:
    from worker.processors.overlay.fitting import PHOTO_SIDE, read_picture

    return fitting.look(read_picture(data, PHOTO_SIDE)[0])


def refusal(call: Any, *args: Any) -> str:
    """Return the code with which the call refuses."""
    with pytest.raises(ProcessorError) as caught:
        call(*args)
    assert caught.value.message
    return caught.value.code


def test_photo_without_a_person_is_refused(fitting: Fitting) -> None:
    """A wall, and a garment where the photo should be."""
    assert refusal(look, fitting, jpeg(Image.linear_gradient("L").convert("RGB"))) == "person_not_found"
    assert refusal(look, fitting, jpeg(draw_garment("violet-top"))) == "person_not_found"


def test_portrait_without_a_waist_is_refused(fitting: Fitting) -> None:
    """Head and shoulders alone are too little to dress."""
    assert refusal(look, fitting, photo_of("hopper")) == "pose_not_supported"


def moved(pose: Pose, points: dict[int, tuple[float, float]]) -> Pose:
    """Return the pose with some of its points elsewhere."""
    placed = pose.points.copy()
    for index, place in points.items():
        placed[index] = place
    return replace(pose, points=placed)


def checked(pose: Pose) -> None:
    from worker.processors.overlay.pose import body_of
    from worker.processors.overlay.refusals import check_pose

    check_pose(pose, body_of(pose))


@pytest.fixture
def upright(fitting: Fitting) -> Pose:
    """Return a pose that is accepted."""
    pose, _ = look(fitting, photo_of("ada"))
    checked(pose)
    return pose


def test_person_seen_from_behind_is_refused(upright: Pose) -> None:
    """The right shoulder is on the right then."""
    left, right = upright.points[11], upright.points[12]
    assert refusal(checked, moved(upright, {11: right, 12: left})) == "pose_not_supported"


def test_person_seen_from_the_side_is_refused(upright: Pose) -> None:
    """The shoulders are close together then."""
    left, right = upright.points[11], upright.points[12]
    middle = (left + right) / 2
    narrow = moved(upright, {11: middle + (left - middle) * 0.3, 12: middle + (right - middle) * 0.3})
    assert refusal(checked, narrow) == "pose_not_supported"


@pytest.mark.parametrize("joint", [13, 15])
def test_raised_arms_are_refused(upright: Pose, joint: int) -> None:
    """Of an elbow or of a wrist."""
    raised = upright.points[11] - [0, 20]
    assert refusal(checked, moved(upright, {joint: raised})) == "pose_not_supported"


def test_lying_person_is_refused(upright: Pose) -> None:
    """Turned by a right angle."""
    turned = replace(upright, points=upright.points[:, ::-1] * [-1, 1] + [1000, 0])
    assert refusal(checked, turned) == "pose_not_supported"


def test_unlikely_person_is_refused(upright: Pose) -> None:
    """The network itself doubts it."""
    assert refusal(checked, replace(upright, score=0.3)) == "person_not_found"


def test_tiny_person_is_refused(upright: Pose) -> None:
    """A tenth of the photo's height has too few pixels."""
    assert refusal(checked, replace(upright, points=upright.points * 0.2)) == "person_not_found"


def trousers() -> Image.Image:
    picture = Image.new("RGB", (600, 800), "white")
    legs = [(180, 60), (420, 60), (440, 740), (330, 740), (300, 260), (270, 740), (160, 740)]
    ImageDraw.Draw(picture).polygon(legs, fill=(40, 50, 90))
    return picture


def test_pictures_without_an_upper_garment_are_refused(fitting: Fitting) -> None:
    """Trousers, an empty ground, and a photo of a person in a scene."""
    assert refusal(fitting.cut, encoded(trousers())) == "garment_not_found"
    assert refusal(fitting.cut, encoded(Image.new("RGB", (400, 400), "white"))) == "garment_not_found"
    assert refusal(fitting.cut, photo_of("hopper")) == "garment_not_found"


def test_unreadable_picture_is_refused(fitting: Fitting) -> None:
    """With the code that the rest of the product uses."""
    with pytest.raises(ProcessorError, match="unreadable_image"):
        fitting.cut(b"not an image")
