"""Where on the body the points of a garment belong.

All of it is pairs of points: ``to`` in the photo, ``source`` in the garment. They make
one spline for the garment's body and one for each sleeve.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np

from worker.processors.overlay.keypoints import Garment, Half
from worker.processors.overlay.parts import Parts
from worker.processors.overlay.pose import LEFT, RIGHT, Body
from worker.processors.overlay.sleeves import SleeveFit, sleeve_fit
from worker.processors.overlay.spline import Array, Pairs, disc, limb

EASE: Final = 0.035
"""How much wider than the body a garment hangs at each side, in shoulder widths."""
BELOW_WAIST: Final = 0.05
"""How far the hem reaches below the old clothes, in lengths of the trunk."""
ROWS: Final = 8


@dataclass(frozen=True, slots=True)
class Seat:
    """Where one half of the garment sits on the body."""

    neck: Array
    tip: Array
    between: Array
    armpit: Array


@dataclass(frozen=True, slots=True)
class Fit:
    """Where everything belongs."""

    seats: dict[int, Seat]
    trunk: Pairs
    sleeves: dict[int, SleeveFit]
    hem: float
    """On the spine: 0 at the shoulders, 1 at the hips."""
    scale: float
    """Pixels of the photo for one of the garment."""


def fit(garment: Garment, body: Body, parts: Parts) -> Fit:
    """Return where the garment belongs on this body."""
    seats = _level({side: _seat(garment, body, parts, side) for side in (LEFT, RIGHT)}, body)
    across_shoulders = float(np.hypot(*(garment.halves[RIGHT].tip - garment.halves[LEFT].tip)))
    if garment.sleeved:
        scale = float(np.hypot(*(seats[RIGHT].tip - seats[LEFT].tip))) / max(across_shoulders, 1)
        scale = min(scale, 1.12 * body.width / garment.width)
    else:
        scale = 1.12 * body.width / garment.width  # straps say little: what fits is the chest
    hem = _hem(garment, body, parts, seats, scale)
    edges = _edges(garment, body, parts, seats, hem)
    seats = {side: _with_armpit(seats[side], garment.halves[side], body, edges[0], side) for side in seats}
    trunk = _trunk(garment, body, seats, edges, scale)
    sleeves = {
        side: sleeve_fit(half, half.sleeve, body, side, seats[side].tip, seats[side].armpit, parts.person, scale)
        for side, half in garment.halves.items()
        if half.sleeve is not None
    }
    return Fit(seats, trunk, sleeves, hem, scale)


def _rise(point: Array, body: Body, person: Array, most: float, least: float) -> Array:
    """Return the edge of the person above a point, at most ``most`` widths away."""
    height, width = person.shape
    for step in range(int(most * body.width)):
        x, y = (int(v) for v in point + body.up * step)
        if not (0 <= y < height and 0 <= x < width) or not person[y, x]:
            return point + body.up * max(step - 1, least * body.width)
    return point + body.up * ((0.3 * most + 0.7 * least) * body.width)


def _seat(garment: Garment, body: Body, parts: Parts, side: int) -> Seat:
    half, shoulder, width = garment.halves[side], body.shoulder[side], body.width
    out, person = body.outward(side), parts.person
    to_neck, to_tip = abs(half.neck[0] - garment.centre), max(1.0, abs(half.tip[0] - garment.centre))
    inner = body.shoulder[side] - body.middle
    if half.sleeve is not None:
        share = float(np.clip(to_neck / to_tip, 0.30, 0.62))
        tip = _rise(shoulder + out * 0.08 * width, body, person, 0.30, 0.02) + body.up * 0.02 * width
        neck = _rise(body.middle + inner * 1.1 * share, body, person, 0.28, 0.06) + body.up * 0.02 * width
        between = _rise(body.middle + inner * 0.55 * (share + 1), body, person, 0.36, 0.10) + body.up * 0.025 * width
    else:
        share = float(np.clip(to_tip / (garment.width / 2), 0.35, 1.0))
        tip = _rise(body.middle + inner * 1.06 * share, body, person, 0.26, 0.06) + body.up * 0.015 * width
        closer = float(np.clip(to_neck / (garment.width / 2), 0.2, share - 0.05))
        neck = _rise(body.middle + inner * 1.06 * closer, body, person, 0.30, 0.10) + body.up * 0.02 * width
        between = (neck + tip) / 2
    return Seat(neck, tip, between, shoulder - body.up * 0.36 * width)


def _level(seats: dict[int, Seat], body: Body) -> dict[int, Seat]:
    """Return the seats with both ends of the neckline equally high."""
    heights = {side: float(np.dot(seat.neck - body.middle, body.up)) for side, seat in seats.items()}
    mean = sum(heights.values()) / 2
    return {side: replace(seat, neck=seat.neck + body.up * (mean - heights[side])) for side, seat in seats.items()}


def _hem(garment: Garment, body: Body, parts: Parts, seats: dict[int, Seat], scale: float) -> float:
    """Return where the hem hangs: its natural place, but below the old clothes."""
    top = (garment.halves[LEFT].neck[1] + garment.halves[RIGHT].neck[1]) / 2
    neck = (seats[LEFT].neck + seats[RIGHT].neck) / 2
    natural = (float(np.dot(neck - body.middle, -body.up)) + (garment.hem - top) * scale) / body.length
    longest = 1.25 if garment.height / garment.width < 2.6 else 1.9
    if parts.waist is not None:
        natural = max(natural, parts.waist + BELOW_WAIST)
    return float(np.clip(natural, 0.85, longest))


def _edges(
    garment: Garment, body: Body, parts: Parts, seats: dict[int, Seat], hem: float
) -> list[tuple[float, float, dict[int, float]]]:
    """Return rows of the trunk: place on the spine, share of the garment, half widths.

    The half widths follow the person's own edge, arms left out, within what a trunk can
    measure.
    """
    free = parts.person.copy()
    for side in (LEFT, RIGHT):
        points, radii = body.arm(side)
        if parts.bare[side]:
            free[(parts.arms[side] & parts.skin) > 0] = 0
        else:
            free[limb(free.shape, points[1:], [0.9 * r for r in radii[1:]]) > 0] = 0
    free = cv2.morphologyEx(free, cv2.MORPH_OPEN, disc(5))
    hips = abs(body.hip[RIGHT][0] - body.hip[LEFT][0]) / 2
    width = body.width
    armpits = (seats[LEFT].armpit + seats[RIGHT].armpit) / 2
    first = float(np.dot(armpits - body.middle, body.down)) / body.length**2
    usual = [0.56 * width, 0.50 * width, 0.47 * width, max(0.50 * width, hips * 1.5), max(0.55 * width, hips * 1.75)]
    rows: list[tuple[float, float, dict[int, float]]] = []
    for share in np.linspace(0, 1, ROWS):
        t = first + (hem - first) * share
        nominal = float(np.interp(t, [0, 0.35, 0.7, 1.0, 1.4], usual))
        halves = {side: _half_width(free, body.spine(t), side, nominal) for side in (LEFT, RIGHT)}
        rows.append((float(t), float(share), halves))
    for side in (LEFT, RIGHT):
        values = np.array([row[2][side] for row in rows])
        smooth = np.convolve(np.pad(values, 1, "edge"), [0.25, 0.5, 0.25], "valid")
        for row, value in zip(rows, smooth, strict=True):
            row[2][side] = float(value)
    return rows


def _half_width(free: Array, point: Array, side: int, nominal: float) -> float:
    height, width = free.shape
    if point[1] >= height - 2:
        return nominal
    x, y = int(np.clip(point[0], 0, width - 1)), int(np.clip(point[1], 0, height - 1))
    row = free[y, x::side] if side > 0 else free[y, x::-1]
    ends = np.nonzero(row == 0)[0]
    reach = float(ends[0]) if len(ends) else float(len(row))
    return float(np.clip(reach, 0.85 * nominal, 1.30 * nominal))


def _with_armpit(seat: Seat, half: Half, body: Body, first: tuple[float, float, dict[int, float]], side: int) -> Seat:
    """Return the seat with its armpit at the trunk's edge."""
    middle = body.spine(first[0])
    edge = first[2][side]
    if half.sleeve is None:
        reach = edge + EASE * body.width
    else:
        reach = max(abs(seat.armpit[0] - middle[0]), edge * 0.98) + 0.03 * body.width
    return Seat(seat.neck, seat.tip, seat.between, np.array([middle[0] + side * reach, seat.armpit[1]]))


def _trunk(
    garment: Garment,
    body: Body,
    seats: dict[int, Seat],
    edges: list[tuple[float, float, dict[int, float]]],
    scale: float,
) -> Pairs:
    pairs = Pairs()
    for side, half in garment.halves.items():
        seat = seats[side]
        pairs.add(seat.neck, half.neck)
        pairs.add(seat.tip, half.tip)
        between = (half.neck + half.tip) / 2
        column = np.nonzero(garment.mask[:, int(np.clip(between[0], 0, garment.mask.shape[1] - 1))])[0]
        if len(column):
            between[1] = column[0]
        pairs.add(seat.between, between)
        pairs.add(seat.armpit, half.armpit)
    top = (garment.halves[LEFT].armpit[1] + garment.halves[RIGHT].armpit[1]) / 2
    neck = (seats[LEFT].neck + seats[RIGHT].neck) / 2
    drop = float(garment.front[1] - (garment.halves[LEFT].neck[1] + garment.halves[RIGHT].neck[1]) / 2)
    pairs.add(neck - body.up * drop * scale, garment.front)
    pairs.add(body.spine(edges[0][0]), np.array([garment.centre, top]))
    rows: list[tuple[Array, dict[int, float], float, float, int]] = []
    for t, share, halves in edges[1:]:
        y = int(min(top + (garment.hem - top) * share, garment.hem - 2))
        if garment.left[y] >= 0:
            rows.append((body.spine(t), halves, float(garment.left[y]), float(garment.right[y]), y))
    wide = [
        (halves[LEFT] + halves[RIGHT] + 2 * EASE * body.width) / (right - left) for _, halves, left, right, _ in rows
    ]
    even = float(np.median(wide)) if wide else scale
    for middle, halves, left, right, y in rows:
        centre, inner = (left + right) / 2, (right - left) / 5
        for side, edge in ((LEFT, left), (RIGHT, right)):
            pairs.add(_beside(middle, side * (halves[side] + EASE * body.width)), np.array([edge, y]))
            # A print keeps its shape; the cloth beside it takes up the body's.
            pairs.add(_beside(middle, side * inner * even), np.array([centre + side * inner, y]))
        pairs.add(middle, np.array([centre, y]))
    return pairs


def _beside(point: Array, pixels: float) -> Array:
    return np.array([point[0] + pixels, point[1]])
