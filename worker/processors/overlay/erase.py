"""Old clothes taken away where the new garment does not cover them.

What looks out beside the body becomes ground, what looks out on it becomes skin: both
flow in from the nearest pixels that are known.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from worker.processors.overlay.parts import Parts
from worker.processors.overlay.placement import Fit
from worker.processors.overlay.pose import LEFT, RIGHT, Body
from worker.processors.overlay.sleeves import Bones, reach
from worker.processors.overlay.spline import Array, blur, grow, limb, pixels, shrink, soften

COARSEST: Final = 4
"""Pixels of the smallest picture that colours flow through."""


def erase(photo: Array, parts: Parts, body: Body, fit: Fit, cover: Array) -> Array:
    """Return the photo (floats) without the old clothes that ``cover`` leaves seen."""
    result = photo.astype(np.float32)
    rest = _rest(parts, body, fit, cover)
    if not rest.any() or parts.skin_colour is None:
        return result
    flesh = rest & grow(_flesh(parts, body, fit), 1)
    ground = rest & (1 - flesh)
    edge = max(0.8, body.width / 250)
    if ground.any():
        known = 1 - grow(parts.person, max(2.0, 0.03 * body.width))
        result = _mix(result, flow(result, known), soften(ground, edge) * (1 - soften(parts.skin, edge)))
    if flesh.any():
        result = _mix(result, _skin(photo, parts, body), soften(flesh, edge))
    return result


def _rest(parts: Parts, body: Body, fit: Fit, cover: Array) -> Array:
    """Return the old clothes above the hem that the garment does not hide."""
    rest: Array = grow(parts.top, max(1.5, 0.012 * body.width)) & (cover < 0.9).astype(np.uint8)
    keep = parts.head | parts.hair | parts.hands | shrink(parts.skin, 1)
    below = np.zeros_like(rest)
    below[int(np.clip(body.spine(fit.hem)[1], 0, len(rest))) :] = 1
    arms = limb(rest.shape, *body.arm(LEFT)) | limb(rest.shape, *body.arm(RIGHT))
    rest = rest & (1 - keep) & (1 - (below & (1 - arms)))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(rest)
    large = [n for n in range(1, count) if stats[n, cv2.CC_STAT_AREA] > 0.0015 * body.width**2]
    return np.isin(labels, large).astype(np.uint8)


def _flesh(parts: Parts, body: Body, fit: Fit) -> Array:
    """Return where the body itself is, under whatever clothes."""
    shape = parts.person.shape
    flesh = limb(shape, [body.shoulder[LEFT], body.shoulder[RIGHT]], [0.17 * body.width] * 2)
    for side in (LEFT, RIGHT):
        points, radii = body.arm(side)
        share = _stoutness(parts, body, fit, side)
        flesh |= limb(shape, points[:3], [r * share for r in radii[:3]])
    trunk = [fit.seats[RIGHT].neck, fit.seats[RIGHT].tip, fit.seats[RIGHT].armpit]
    trunk += [fit.seats[LEFT].armpit, fit.seats[LEFT].tip, fit.seats[LEFT].neck]
    cv2.fillPoly(flesh, [pixels(trunk)], 1)
    base = (fit.seats[LEFT].neck + fit.seats[RIGHT].neck) / 2
    beside, above = np.array([0.85 * body.face, 0]), body.up * 0.06 * body.width
    neck = [body.chin - beside, body.chin + beside, base + beside, base - beside]
    slope = [base + above - beside, base + above + beside, fit.seats[RIGHT].tip, fit.seats[LEFT].tip]
    for polygon in (neck, slope):
        cv2.fillPoly(flesh, [pixels(polygon)], 1)
    quad = [fit.seats[LEFT].armpit, fit.seats[RIGHT].armpit, body.spine(1) + (body.hip[RIGHT] - body.spine(1)) * 1.3]
    cv2.fillPoly(flesh, [pixels([*quad, body.spine(1) + (body.hip[LEFT] - body.spine(1)) * 1.3])], 1)
    return flesh & parts.person


def _stoutness(parts: Parts, body: Body, fit: Fit, side: int) -> float:
    """Return how thick the arm is beside the usual one: told by a bare fore-arm."""
    if not parts.bare[side]:
        return 0.95
    bones = Bones(body, side, fit.seats[side].tip)
    distance = bones.to_elbow + 0.3 * bones.lower
    usual = bones.usual_radius(distance) * body.width
    seen = reach(parts.person, bones.at(distance), bones.normal(distance), 0.5 * usual, 1.3 * usual)
    return float(np.clip(0.9 * seen / usual, 0.6, 0.95))


def _skin(photo: Array, parts: Parts, body: Body) -> Array:
    """Return skin everywhere: from the skin that is seen, shaded as round limbs are."""
    assert parts.skin_colour is not None
    seen = parts.skin & (parts.arms[LEFT] | parts.arms[RIGHT]) & (1 - parts.hands)
    if seen.sum() < 0.02 * body.width**2:
        seen = parts.skin
    known = shrink(seen, max(1.0, 0.02 * body.width))
    lab = cv2.cvtColor(photo, cv2.COLOR_BGR2LAB).astype(np.float32)
    wide = np.array([26, 7, 7], np.float32)
    skin = np.clip(flow(lab, known), parts.skin_colour - wide, parts.skin_colour + wide)
    skin = blur(skin.astype(np.float32), max(2.0, 0.04 * body.width))
    inside = cv2.distanceTransform(parts.person, cv2.DIST_L2, 5) / (0.11 * body.width)
    skin[..., 0] *= 0.92 + 0.08 * np.sqrt(np.clip(inside, 0, 1))
    worn = parts.lab[..., 0][parts.top > 0]
    if len(worn):  # the old clothes' own shade
        skin[..., 0] *= np.clip(parts.lab[..., 0] / max(1.0, float(np.median(worn))), 0.85, 1.05)
    return cv2.cvtColor(np.clip(skin, 0, 255).astype(np.uint8), cv2.COLOR_LAB2BGR).astype(np.float32)


def _mix(below: Array, above: Array, alpha: Array) -> Array:
    share = alpha[..., None]
    mixed: Array = below * (1 - share) + above * share
    return mixed


def flow(picture: Array, known: Array) -> Array:
    """Return the picture, its unknown pixels filled from the nearest known ones.

    Through a pyramid: far from known pixels the filling is smooth.
    """
    weight = known.astype(np.float32)
    colour = picture.astype(np.float32) * weight[..., None]
    levels = [(colour, weight)]
    while min(levels[-1][1].shape) > COARSEST:
        colour, weight = levels[-1]
        colour, weight = cv2.pyrDown(colour), cv2.pyrDown(weight)
        # What a coarse pixel knows, it knows wholly: else those far away fade.
        gain = np.minimum(1.0, 4 * weight) / np.maximum(weight, 1e-6)
        levels.append((colour * gain[..., None], weight * gain))
    colour, weight = levels[-1]
    filled = colour / np.maximum(weight, 1e-6)[..., None]
    if float(weight.max()) <= 0:
        return picture.astype(np.float32)
    mean = (colour.sum((0, 1)) / weight.sum()).astype(np.float32)
    filled = np.where(weight[..., None] > 1e-3, filled, mean)
    for colour, weight in reversed(levels[:-1]):
        filled = cv2.pyrUp(filled, dstsize=weight.shape[::-1])
        filled = colour + filled * (1 - np.clip(weight, 0, 1))[..., None]
    return filled
