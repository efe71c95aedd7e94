"""Body, garment, and what stays in front of it, laid over each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from worker.processors.overlay.erase import erase
from worker.processors.overlay.keypoints import Garment, opening
from worker.processors.overlay.light import light_of, roundness
from worker.processors.overlay.parts import Parts
from worker.processors.overlay.placement import Fit
from worker.processors.overlay.pose import LEFT, RIGHT, Body
from worker.processors.overlay.spline import Array, Spline, bend, blur, disc, grow, limb, pixels, soften

OVERHANG: Final = 0.06
"""How far beside the person the garment may reach, in shoulder widths."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the garment, bent to its place."""

    colour: Array
    alpha: Array


@dataclass(frozen=True, slots=True)
class Front:
    """Alphas of what the garment passes behind."""

    head: Array
    arms: Array
    hands: Array


def pieces_of(garment: Garment, fit: Fit, body: Body, parts: Parts) -> tuple[Piece, dict[int, Piece]]:
    """Return the garment's trunk and sleeves, bent."""
    shape = parts.person.shape
    trunk_mask, sleeve_masks = _cut(garment)
    near = soften(grow(parts.person, OVERHANG * body.width), 0.01 * body.width)
    picture = garment.picture.astype(np.float32)

    def piece(mask: Array, to: list[Array], source: list[Array], outline: Array, spread: float) -> Piece:
        points = np.array(to)
        margin = 0.25 * body.width
        box = np.array([*(points.min(0) - margin), *(points.max(0) + margin)])
        colour, alpha = bend(picture, _soft_edge(mask), Spline(points, np.array(source)), shape, box)
        limit = np.zeros(shape, np.uint8)
        cv2.fillPoly(limit, [pixels(outline)], 1)
        alpha = alpha * grow(limit, spread * body.width) * near
        return Piece(colour, alpha)

    hull = cv2.convexHull(np.array(fit.trunk.to, np.float32)).reshape(-1, 2)
    trunk = piece(trunk_mask, fit.trunk.to, fit.trunk.source, hull, 0.035)
    sleeves = {
        side: piece(sleeve_masks[side], each.pairs.to, each.pairs.source, each.ring, 0.045)
        for side, each in fit.sleeves.items()
    }
    return trunk, sleeves


def _soft_edge(mask: Array) -> Array:
    return cv2.GaussianBlur(cv2.erode(mask.astype(np.float32), np.ones((3, 3))), (0, 0), 1.0)


def _cut(garment: Garment) -> tuple[Array, dict[int, Array]]:
    """Return the masks of the garment's trunk and of each sleeve, overlapping a little.

    The trunk's neck is open.
    """
    trunk = garment.mask & (1 - opening(garment))
    rows, columns = np.mgrid[0 : trunk.shape[0], 0 : trunk.shape[1]]
    sleeves: dict[int, Array] = {}
    for side, half in garment.halves.items():
        if half.sleeve is None:
            continue
        seam = half.armpit - half.tip
        beyond = (seam[0] * (rows - half.tip[1]) - seam[1] * (columns - half.tip[0])) * -side
        beyond = beyond / max(1.0, float(np.hypot(*seam)))
        outside = (side * (columns - garment.centre) > 0) & (side * (columns - half.armpit[0]) > -0.15 * garment.width)
        left, right = garment.left[:, None], garment.right[:, None]
        trunk_rows = (rows > half.armpit[1] + 1) & (columns >= left - 1) & (columns <= right + 1)
        mask = ((beyond > -0.04 * garment.width) & outside & ~trunk_rows & (garment.mask > 0)).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
        if count > 2:
            mask = (labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.uint8)
        sleeves[side] = mask
        trunk[(beyond > 6) & outside & ~trunk_rows] = 0
    return trunk, sleeves


def front_of(parts: Parts, body: Body, fit: Fit) -> Front:
    """Return what the garment passes behind: head, hair, neck, arms and hands."""
    shape = parts.person.shape
    neck = np.zeros(shape, np.uint8)
    left, right = fit.seats[LEFT].neck, fit.seats[RIGHT].neck
    line = (left + right) / 2
    beside = np.array([body.face, 0])
    corners = [right * 0.85 + line * 0.15, left * 0.85 + line * 0.15]
    ring = [body.mouth - beside, body.mouth + beside, *(c + body.up * 2 for c in corners)]
    cv2.fillConvexPoly(neck, pixels(ring), 1)
    head = parts.head | parts.hair | (neck & parts.skin)
    arms = np.zeros(shape, np.uint8)
    for side in (LEFT, RIGHT):
        if not body.arm_seen[side]:
            continue
        points, radii = body.arm(side)
        if side in fit.sleeves:
            points = fit.sleeves[side].beyond
            radii = radii[-len(points) :]
        if parts.bare[side]:
            arm = grow(limb(shape, points, radii), 0.03 * body.width) & parts.skin
        elif len(points) > 2:
            arm = limb(shape, points[-3:], [0.9 * r for r in radii[-3:]]) & parts.person
        else:
            continue  # a sleeve to the wrist: only the hand is seen
        root = fit.sleeves[side].root if side in fit.sleeves else [fit.seats[side].tip] * 2
        arm[limb(shape, root, [(0.17 if side in fit.sleeves else 0.04) * body.width] * len(root)) > 0] = 0
        arms |= arm
    arms = cv2.morphologyEx(cv2.morphologyEx(arms, cv2.MORPH_CLOSE, disc(7)), cv2.MORPH_OPEN, disc(5))
    edge = max(0.8, body.width / 300)
    return Front(soften(head, edge), soften(arms, edge), soften(parts.hands, edge))


def lay(photo: Array, garment: Garment, fit: Fit, body: Body, parts: Parts) -> Array:
    """Return the photo with the garment on."""
    shape = parts.person.shape
    trunk, sleeves = pieces_of(garment, fit, body, parts)
    front = front_of(parts, body, fit)
    behind = (1 - front.head) * (1 - front.hands)
    trunk_alpha = trunk.alpha * behind * (1 - front.arms)
    layers = [(sleeves[side].colour, sleeves[side].alpha * behind) for side in sleeves]
    layers.append((trunk.colour, trunk_alpha))
    for side, sleeve in sleeves.items():
        points, radii = body.arm(side)
        zone = limb(shape, points[:3], radii[:3])
        centre = body.shoulder[side]
        zone[limb(shape, [centre, centre], [0.36 * body.width] * 2) > 0] = 0
        layers.append((sleeve.colour, sleeve.alpha * behind * soften(zone, 0.02 * body.width)))
    cover = 1 - np.prod([1 - alpha for _, alpha in layers], axis=0)
    result = erase(photo, parts, body, fit, cover)
    light = light_of(photo, parts, body)
    person = parts.person.astype(np.float32)
    for colour, alpha in layers:
        _lay_one(result, colour, alpha.astype(np.float32), light, person, body)
    return np.clip(result, 0, 255).astype(np.uint8)


def _lay_one(result: Array, colour: Array, alpha: Array, light: Array, person: Array, body: Body) -> None:
    """Lay one shaded layer over the result, and its shadow on the person around it."""
    spread = max(2.0, 0.025 * body.width)
    left, top, width, height = cv2.boundingRect((alpha > 0).astype(np.uint8))
    margin = int(4 * spread)
    part = (slice(max(0, top - margin), top + height + margin), slice(max(0, left - margin), left + width + margin))
    share, below = alpha[part][..., None], result[part]
    shadow = blur(alpha[part], spread)[..., None] * (1 - share) * person[part][..., None]
    shaded = np.clip(colour[part] * (light[part] * roundness(alpha[part], body)), 0, 255)
    result[part] = below * ((1 - 0.30 * shadow) * (1 - share)) + shaded * share
