"""The body in a photo: its points, and a soft mask of the person.

Two networks (BlazePose and a selfie segmentation, both Apache-2.0) run in OpenCV. The
detector that usually comes first is not needed: the first crop comes from the mask,
each next one from the two points that BlazePose gives for that purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from worker.processors.overlay.spline import Array
from worker.processors.overlay.weights import POSE, SELFIE

SIDE: Final = 256
"""Pixels of the square that both networks take."""
CROP: Final = 2.5
"""Side of the next crop, in distances from point 33 (hips) to 34."""
LEFT, RIGHT = -1, 1
"""The sides of a picture. A person seen from the front has the right arm at LEFT."""


@dataclass(frozen=True, slots=True)
class Pose:
    """What the networks say of a photo."""

    points: Array
    """33 points and two more, in pixels."""
    visible: Array
    """How likely each point is seen, 0 to 1."""
    score: float
    """How likely there is a person, 0 to 1."""
    person: Array
    """How likely each pixel belongs to the person, 0 to 1."""


class Networks:
    """The two networks, loaded. One run at a time."""

    def __init__(self, folder: Path) -> None:
        # The default engine of OpenCV 5 returns only the last output of a network.
        self._pose = cv2.dnn.readNetFromTFLite(str(folder / POSE), cv2.dnn.ENGINE_CLASSIC)
        self._selfie = cv2.dnn.readNetFromTFLite(str(folder / SELFIE), cv2.dnn.ENGINE_CLASSIC)

    def find(self, photo: Array) -> Pose:
        """Return the pose of the person that stands out most."""
        soft = self._person(photo)
        best = max((self._look(photo, *crop) for crop in _first_crops(soft)), key=lambda pose: pose.score)
        for _ in range(3):
            hips, reach = best.points[33], best.points[34]
            after = self._look(photo, hips[0], hips[1], CROP * float(np.hypot(*(hips - reach))))
            if after.score < best.score - 0.05:
                break
            best = after
        person = np.maximum(best.person, soft * (best.person > 0.05))
        return Pose(best.points, best.visible, best.score, person)

    def _person(self, photo: Array) -> Array:
        self._selfie.setInput(cv2.dnn.blobFromImage(photo, 1 / 255, (SIDE, SIDE), swapRB=True))
        mask = np.asarray(self._selfie.forward()).reshape(SIDE, SIDE)
        return cv2.resize(mask, photo.shape[1::-1])

    def _look(self, photo: Array, x: float, y: float, size: float) -> Pose:
        scale = SIDE / max(size, 8.0)
        into = np.array([[scale, 0, SIDE / 2 - x * scale], [0, scale, SIDE / 2 - y * scale]], np.float32)
        crop = cv2.warpAffine(photo, into, (SIDE, SIDE), flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        self._pose.setInput(cv2.dnn.blobFromImage(crop, 1 / 255, (SIDE, SIDE), swapRB=True))
        outputs = {o.size: o for o in map(np.asarray, self._pose.forward(["Identity", "Identity_1", "Identity_2"]))}
        marks = outputs[195].reshape(39, 5)
        points = (marks[:35, :2] - SIDE / 2) / scale + [x, y]
        mask = _logistic(outputs[SIDE * SIDE].reshape(SIDE, SIDE))
        person = cv2.warpAffine(mask, cv2.invertAffineTransform(into), photo.shape[1::-1], flags=cv2.INTER_LINEAR)
        return Pose(points, _logistic(marks[:35, 3]), float(outputs[1].ravel()[0]), person)


def _logistic(values: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-np.clip(values, -60, 60)))
    return result


def _first_crops(soft: Array) -> list[tuple[float, float, float]]:
    """Return squares (x, y, side) in which the whole person may lie."""
    height, width = soft.shape
    crops = [(width / 2, height / 2, max(height, width) * 1.05)]
    ys, xs = np.nonzero(soft > 0.5)
    if len(xs) > 0.02 * height * width:
        left, right, top, bottom = (float(v) for v in (xs.min(), xs.max(), ys.min(), ys.max()))
        crops.append(((left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top) * 1.15))
        if bottom > 0.97 * height:  # half a body: the rest is below the picture
            crops.append(((left + right) / 2, top + (bottom - top) * 0.95, (bottom - top) * 2.0))
    return crops


@dataclass(frozen=True, slots=True)
class Body:
    """The points of a pose by name, and the measures that follow from them.

    Dictionaries are by side of the picture, LEFT and RIGHT.
    """

    shoulder: dict[int, Array]
    elbow: dict[int, Array]
    wrist: dict[int, Array]
    hand: dict[int, Array]
    """A point beyond the finger tips."""
    hip: dict[int, Array]
    middle: Array
    """Between the shoulders."""
    down: Array
    """From there to between the hips."""
    width: float
    """Between the shoulders, in pixels: the unit of most other measures."""
    eyes: Array
    mouth: Array
    nose: Array
    chin: Array
    face: float
    """From eyes to mouth, in pixels."""
    arm_seen: dict[int, bool]

    @property
    def length(self) -> float:
        """Pixels from the shoulders to the hips."""
        return float(np.hypot(*self.down))

    @property
    def up(self) -> Array:
        """A vector of length 1 towards the head."""
        up: Array = -self.down / (self.length + 1e-6)
        return up

    def spine(self, t: float) -> Array:
        """Return the point at ``t`` between shoulders (0) and hips (1), and beyond."""
        point: Array = self.middle + self.down * t
        return point

    def outward(self, side: int) -> Array:
        """Return a vector of length 1 from the neck to this side's shoulder."""
        out = self.shoulder[side] - self.middle
        unit: Array = out / (np.hypot(*out) + 1e-6)
        return unit

    def arm(self, side: int) -> tuple[list[Array], list[float]]:
        """Return the points of an arm from shoulder to finger tips, and its radii."""
        points = [self.shoulder[side], self.elbow[side], self.wrist[side], self.hand[side]]
        return points, [share * self.width for share in (0.17, 0.145, 0.105, 0.13)]


def body_of(pose: Pose) -> Body:
    """Return the named points of a pose."""
    p = pose.points.astype(np.float64)
    shoulder, hip = {LEFT: p[12], RIGHT: p[11]}, {LEFT: p[24], RIGHT: p[23]}
    wrist = {LEFT: p[16], RIGHT: p[15]}
    middle = (p[11] + p[12]) / 2
    eyes, mouth = (p[2] + p[5]) / 2, (p[9] + p[10]) / 2
    return Body(
        shoulder=shoulder,
        elbow={LEFT: p[14], RIGHT: p[13]},
        wrist=wrist,
        hand={LEFT: p[16] + (p[20] - p[16]) * 1.3, RIGHT: p[15] + (p[19] - p[15]) * 1.3},
        hip=hip,
        middle=middle,
        down=(p[23] + p[24]) / 2 - middle,
        width=float(np.hypot(*(p[11] - p[12]))),
        eyes=eyes,
        mouth=mouth,
        nose=p[0],
        chin=mouth + (mouth - eyes) * 0.85,
        face=max(4.0, float(np.hypot(*(mouth - eyes)))),
        arm_seen={LEFT: bool(pose.visible[14] > 0.3), RIGHT: bool(pose.visible[13] > 0.3)},
    )
