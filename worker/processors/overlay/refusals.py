"""What cannot be done, said before the work begins.

A wrong picture is worse than a refusal: the overlay works for one person seen from the
front, arms beside the body, from the head to the waist at least.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tryon.processor import ProcessorError
from worker.processors.overlay.pose import LEFT, RIGHT, Body, Pose

SMALLEST: Final = 40.0
"""Pixels between the shoulders, in a photo of 1024 pixels."""
TILT: Final = 25.0
"""Degrees that shoulders and trunk may lean."""
NARROW: Final = 0.42
"""Shoulder width by trunk length of a person who has turned too far."""


def check_pose(pose: Pose, body: Body) -> None:
    """Return if the overlay can dress this person.

    Raises :class:`ProcessorError` ``person_not_found`` or ``pose_not_supported``.
    """
    height, width = pose.person.shape
    if pose.score < 0.5 or min(pose.visible[11], pose.visible[12]) < 0.5:
        raise ProcessorError("person_not_found", "There is no person in the photo, or the shoulders are not seen.")
    if body.width < SMALLEST * max(height, width) / 1024:
        raise ProcessorError("person_not_found", "The person in the photo is too small; come closer.")
    if body.shoulder[LEFT][0] > body.shoulder[RIGHT][0]:
        raise ProcessorError("pose_not_supported", "The person must be seen from the front, not from behind.")
    if body.width < NARROW * body.length or not _between_shoulders(body):
        raise ProcessorError("pose_not_supported", "The person must be seen from the front, not from the side.")
    if _angle(body.shoulder[RIGHT] - body.shoulder[LEFT]) > TILT or _angle(body.down[::-1]) > TILT:
        raise ProcessorError("pose_not_supported", "The person must stand or sit upright.")
    if body.spine(0.55)[1] > height:
        raise ProcessorError("pose_not_supported", "The photo must show the person down to the waist.")
    for side in (LEFT, RIGHT):
        _check_arm(pose, body, side)


def _between_shoulders(body: Body) -> bool:
    left, right = body.shoulder[LEFT][0], body.shoulder[RIGHT][0]
    margin = 0.15 * (right - left)
    return bool(left + margin < body.nose[0] < right - margin)


def _angle(vector: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Return the degrees between a vector and the x axis."""
    return abs(float(np.degrees(np.arctan2(vector[1], vector[0]))))


def _check_arm(pose: Pose, body: Body, side: int) -> None:
    """Raise unless this arm hangs beside the body, as far as it is seen."""
    height, width = pose.person.shape
    elbow, wrist, shoulder = body.elbow[side], body.wrist[side], body.shoulder[side]
    inside = 0 <= wrist[0] < width and 0 <= wrist[1] < height
    low = shoulder[1] + 0.25 * body.length
    if elbow[1] < low or (inside and pose.visible[16 if side == LEFT else 15] > 0.5 and wrist[1] < low):
        raise ProcessorError("pose_not_supported", "The arms must hang beside the body.")
