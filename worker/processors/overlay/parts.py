"""Which pixels of a photo are the person, skin, hair, and the clothes worn above.

The colours of skin, hair and clothes are learned from the photo itself, at places where
the pose says they must be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from worker.processors.overlay.pose import LEFT, RIGHT, Body, Pose
from worker.processors.overlay.spline import Array, disc, grow, limb, pixels

FAR: Final = np.float32(1e6)
SKIN: Final = 16.0
"""Squared Mahalanobis distance up to which a pixel may be skin."""
HAIR: Final = 11.0
SEEN: Final = 0.3
"""Share of skin where the pose says a hand is; less is a sleeve or a glove."""
LOOSE: Final = np.diag([70.0, 9.0, 9.0])
"""Added to the covariance of a colour (lightness, and two of hue): shade differs."""


@dataclass(frozen=True, slots=True)
class Colour:
    """A colour and how much it varies."""

    mean: Array
    inverse: Array

    def distance(self, lab: Array) -> Array:
        """Return the squared Mahalanobis distance of each pixel."""
        root = np.linalg.cholesky(self.inverse).T
        away = cv2.transform(lab, np.hstack([root, -(root @ self.mean)[:, None]]).astype(np.float32))
        return cv2.transform(away * away, np.ones((1, 3), np.float32))


@dataclass(frozen=True, slots=True)
class Parts:
    """Masks of 0 and 1, each of the photo's size."""

    lab: Array
    """The photo in CIE Lab, a little blurred."""
    person: Array
    skin: Array
    hair: Array
    head: Array
    """Face, hair and everything else above the chin."""
    arms: dict[int, Array]
    """Where the bones say that an arm is, bare or not."""
    hands: Array
    bare: dict[int, bool]
    """Whether the fore-arm of this side is bare."""
    top: Array
    """The clothes that are worn above the waist."""
    waist: float | None
    """Where they end on the spine: 0 at the shoulders, 1 at the hips. None: unseen."""
    skin_colour: Array | None
    cloth: Colour | None


def parts_of(photo: Array, pose: Pose, body: Body) -> Parts:
    """Return the parts of this photo."""
    shape = photo.shape[:2]
    person = _person(photo, pose, body)
    lab = cv2.cvtColor(cv2.GaussianBlur(photo, (0, 0), max(0.8, body.width / 200)), cv2.COLOR_BGR2LAB)
    lab = lab.astype(np.float32)
    skin, cloth, hair, legs = _colours(lab, person, body)
    far = {
        name: each.distance(lab) if each is not None else np.full(shape, FAR, np.float32)
        for name, each in (("skin", skin), ("cloth", cloth), ("hair", hair), ("legs", legs))
    }
    clothed = np.minimum(far["cloth"], far["legs"])
    is_skin = ((far["skin"] < SKIN) & (far["skin"] < clothed)).astype(np.uint8) & person
    is_skin = cv2.morphologyEx(cv2.morphologyEx(is_skin, cv2.MORPH_OPEN, disc(3)), cv2.MORPH_CLOSE, disc(5))
    is_hair = (far["hair"] < HAIR) & (far["hair"] < far["cloth"]) & (far["hair"] < far["skin"])
    head = _head(person, body)
    arms = {side: limb(shape, *body.arm(side)) & person for side in (LEFT, RIGHT)}
    hands = np.zeros(shape, np.uint8)
    for side in (LEFT, RIGHT):
        hand = _hand(body, side, shape) & person
        if (hand & is_skin).sum() > SEEN * hand.sum():
            hands |= hand & grow(is_skin, 0.008 * body.width)
    waist = _waist(far["cloth"], body) if cloth is not None else None
    hair_mask = _hair(is_hair.astype(np.uint8) & person, head, body, hair, cloth)
    top = person & (1 - is_skin) & (1 - head) & (1 - hair_mask) & (1 - hands)
    top &= _above(shape, body, waist) | _sleeve_zone(arms, far["cloth"])
    return Parts(
        lab=lab,
        person=person,
        skin=is_skin,
        hair=hair_mask,
        head=head,
        arms=arms,
        hands=hands,
        bare={side: _bare(body, side, is_skin, person) for side in (LEFT, RIGHT)},
        top=top,
        waist=waist,
        skin_colour=None if skin is None else skin.mean,
        cloth=cloth,
    )


def _person(photo: Array, pose: Pose, body: Body) -> Array:
    """Return the person's mask, its edge drawn to the photo's (a guided filter)."""
    rough = (pose.person > 0.5).astype(np.float32)
    grey = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY).astype(np.float32) / 255
    side = 2 * max(4, int(body.width * 0.03)) + 1

    def mean(values: Array) -> Array:
        return cv2.boxFilter(values, -1, (side, side))

    mean_grey, mean_rough = mean(grey), mean(rough)
    slope = (mean(grey * rough) - mean_grey * mean_rough) / (mean(grey * grey) - mean_grey**2 + 1e-4)
    refined = mean(slope) * grey + mean(mean_rough - slope * mean_grey)
    mask = (refined > 0.5).astype(np.uint8)
    return cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc(3)), cv2.MORPH_CLOSE, disc(5))


def _learn(lab: Array, where: Array) -> Colour | None:
    """Return the colour that most of these pixels have."""
    values = lab[where > 0].reshape(-1, 3).astype(np.float64)
    if len(values) < 30:
        return None
    away = np.abs(values - np.median(values, 0)).sum(1)
    values = values[away <= np.percentile(away, 80)]
    return Colour(values.mean(0), np.linalg.inv(np.cov(values.T) + LOOSE))


def _colours(lab: Array, person: Array, body: Body) -> tuple[Colour | None, ...]:
    """Return the colours of skin, clothes above, hair, and clothes below."""
    shape = person.shape
    face, torso, crown, legs = (np.zeros(shape, np.uint8) for _ in range(4))
    size = body.face
    middle = (int(body.nose[0]), int((body.eyes[1] + body.mouth[1]) / 2))
    cv2.ellipse(face, middle, (max(2, int(size * 0.75)), max(2, int(size * 0.95))), 0, 0, 360, 1, -1)
    quad = [body.shoulder[s] + (body.middle - body.shoulder[s]) * 0.35 + body.down * 0.25 for s in (LEFT, RIGHT)]
    quad += [body.spine(0.8) + (body.hip[s] - body.spine(1)) * 0.7 for s in (RIGHT, LEFT)]
    cv2.fillConvexPoly(torso, pixels(quad), 1)
    above = (int(body.eyes[0]), int(body.eyes[1] - size * 0.9))
    cv2.ellipse(crown, above, (max(2, int(size * 1.9)), max(2, int(size * 1.6))), 0, 180, 360, 1, -1)
    across = (body.hip[RIGHT] - body.hip[LEFT]) * 0.8
    thighs = [
        body.spine(1.15) + across,
        body.spine(1.45) + across,
        body.spine(1.45) - across,
        body.spine(1.15) - across,
    ]
    cv2.fillConvexPoly(legs, pixels(thighs), 1)
    skin = _learn(lab, face & person)
    cloth = _learn(lab, torso & person)
    hair = None
    if skin is not None:
        hair = _learn(lab, crown & person & (skin.distance(lab) > 12))
    below = _learn(lab, legs & person)
    if skin is not None and below is not None and float(np.abs(skin.mean - below.mean)[1:].max()) < 5:
        below = None  # bare legs
    return skin, cloth, hair, below


def _head(person: Array, body: Body) -> Array:
    """Return everything of the person above the chin, shoulders left out."""
    above = np.zeros_like(person)
    above[: int(np.clip(body.chin[1], 0, len(above)))] = 1
    shoulders = limb(person.shape, [body.shoulder[LEFT], body.shoulder[RIGHT]], [0.2 * body.width] * 2)
    face = np.zeros_like(person)
    middle = (body.eyes + body.chin) / 2
    axes = (max(2, int(body.face * 1.25)), max(2, int(np.hypot(*(body.chin - body.eyes)) / 2 + body.face * 0.45)))
    cv2.ellipse(face, (int(middle[0]), int(middle[1])), axes, 0, 0, 360, 1, -1)
    return ((above & (1 - shoulders)) | face) & person


def _hair(is_hair: Array, head: Array, body: Body, hair: Colour | None, cloth: Colour | None) -> Array:
    """Return the hair that falls below the chin, where it is joined to the head."""
    if hair is None:
        return np.zeros_like(is_hair)
    if (
        cloth is not None
        and float(np.hypot(*(hair.mean - cloth.mean)[1:])) + 0.5 * abs(hair.mean[0] - cloth.mean[0]) < 14
    ):
        return np.zeros_like(is_hair)  # hair and clothes of one colour cannot be told apart
    zone = np.zeros_like(is_hair)
    bottom = int(np.clip(body.spine(0.55)[1], 0, len(zone)))
    left, right = (int(body.shoulder[side][0]) for side in (LEFT, RIGHT))
    zone[:bottom, max(0, left) : max(0, right)] = 1
    mask = cv2.morphologyEx(cv2.morphologyEx(is_hair & zone, cv2.MORPH_CLOSE, disc(5)), cv2.MORPH_OPEN, disc(3))
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask | (head & is_hair))
    joined = np.unique(parts[(head & is_hair) > 0])
    large = [n for n in joined if n and stats[n, cv2.CC_STAT_AREA] > 0.004 * body.width**2]
    return (np.isin(parts, large) & (head == 0)).astype(np.uint8)


def _hand(body: Body, side: int, shape: tuple[int, int]) -> Array:
    wrist, tip = body.wrist[side], body.hand[side]
    return limb(shape, [wrist + (tip - wrist) * 0.1, tip], [0.10 * body.width, 0.14 * body.width])


def _bare(body: Body, side: int, skin: Array, person: Array) -> bool:
    """Tell whether most of the fore-arm's middle line is skin."""
    line = np.zeros_like(person)
    elbow, wrist = body.elbow[side], body.wrist[side]
    ends = pixels([elbow + (wrist - elbow) * 0.25, wrist])
    cv2.polylines(line, [ends], False, 1, max(2, int(0.03 * body.width)))
    seen = (line & person) > 0
    return bool(seen.any()) and float(skin[seen].mean()) > 0.5


def _waist(far: Array, body: Body) -> float | None:
    """Return where the colour of the clothes ends along the spine."""
    height, width = far.shape
    reach = max(1, int(0.12 * body.width))
    run: list[tuple[float, float]] = []
    for t in np.linspace(0.4, 1.6, 120):
        x, y = (int(v) for v in body.spine(t))
        if not 0 <= y < height or not 0 <= x < width:
            break
        run.append((float(t), float(np.median(far[y, max(0, x - reach) : x + reach + 1]))))
    for at in range(len(run) - 4):
        if run[at][0] > 0.6 and all(distance > 20 for _, distance in run[at : at + 4]):
            return run[at][0]
    return None


def _above(shape: tuple[int, int], body: Body, waist: float | None) -> Array:
    """Return the half of the picture above the waist."""
    zone = np.zeros(shape, np.uint8)
    line = body.spine(1.0 if waist is None else waist)
    across = np.array([-body.down[1], body.down[0]]) / (body.length + 1e-6) * max(shape) * 2
    up = body.up * max(shape) * 2
    cv2.fillConvexPoly(zone, pixels([line - across, line + across, line + across + up, line - across + up]), 1)
    return zone


def _sleeve_zone(arms: dict[int, Array], far: Array) -> Array:
    """Return what looks like the clothes and lies on an arm, also below the waist."""
    return ((arms[LEFT] | arms[RIGHT]) & (far < 30)).astype(np.uint8)
