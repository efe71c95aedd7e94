"""Neck, shoulders, sleeves and hem of an upper garment, found in its outline.

Everything is told from the shape: the sleeves begin at the deepest dents of the
outline's two halves (the armpits); the neck lies between the highest points.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tryon.processor import ProcessorError
from worker.processors.overlay.pose import LEFT, RIGHT
from worker.processors.overlay.spline import Array, disc, pixels

SIDES = (LEFT, RIGHT)


@dataclass(frozen=True, slots=True)
class Sleeve:
    """A sleeve's two corners at its end."""

    outer: Array
    inner: Array
    mask: Array


@dataclass(frozen=True, slots=True)
class Half:
    """One side of a garment."""

    neck: Array
    """Where neck and shoulder meet."""
    tip: Array
    """Where the shoulder ends, and the sleeve begins."""
    armpit: Array
    sleeve: Sleeve | None


@dataclass(frozen=True, slots=True)
class Garment:
    """An upper garment and its points."""

    picture: Array
    mask: Array
    centre: int
    top: int
    hem: int
    left: Array
    """First pixel of the body in each row; -1: none."""
    right: Array
    halves: dict[int, Half]
    front: Array
    """Middle of the neckline's front edge."""
    back_shows: bool
    """Whether the inside of the back is seen above the front edge."""

    @property
    def width(self) -> float:
        """Pixels from armpit to armpit."""
        return max(1.0, float(self.halves[RIGHT].armpit[0] - self.halves[LEFT].armpit[0]))

    @property
    def sleeved(self) -> bool:
        """Whether it has two sleeves."""
        return all(half.sleeve is not None for half in self.halves.values())

    @property
    def height(self) -> int:
        """Pixels from the top to the hem."""
        return self.hem - self.top


@dataclass(frozen=True, slots=True)
class _Shape:
    mask: Array
    centre: int
    top: int
    height: int
    left: Array
    right: Array
    half: dict[int, float]
    """Typical half width of the body."""


def find_points(picture: Array, mask: Array) -> Garment:
    """Return the garment's points.

    Raises :class:`ProcessorError` ``garment_not_found``: no upper garment.
    """
    shape = _shape(mask)
    dents = _dents(shape)
    halves = {side: _half(shape, side, dents) for side in SIDES}
    if halves[RIGHT].armpit[0] - halves[LEFT].armpit[0] < 0.15 * (mask.any(0).sum()):
        raise _unknown()
    widths = np.where(shape.left >= 0, shape.right - shape.left, 0)
    body = widths[int(shape.top + 0.55 * shape.height) : int(shape.top + 0.93 * shape.height)]
    hem = int(np.nonzero(widths > 0.45 * np.median(body[body > 0]))[0][-1])
    front, back_shows = _neckline(picture, shape, halves)
    return Garment(picture, mask, shape.centre, shape.top, hem, shape.left, shape.right, halves, front, back_shows)


def _unknown() -> ProcessorError:
    return ProcessorError("garment_not_found", "Only upper garments, seen whole from the front, can be tried on.")


def _shape(mask: Array) -> _Shape:
    """Return the rows of the body, found from the middle outwards."""
    ys, xs = np.nonzero(mask)
    top, bottom = int(ys.min()), int(ys.max())
    height, width = bottom - top, int(xs.max() - xs.min())
    if not 0.3 < width / max(height, 1) < 4.5:
        raise _unknown()
    centre = int(np.median(xs[ys > top + 0.5 * height]))
    left, right = np.full(mask.shape[0], -1), np.full(mask.shape[0], -1)
    for y in range(top, bottom + 1):
        row = mask[y]
        x = centre
        if not row[x]:
            near = np.nonzero(row[max(0, centre - width // 8) : centre + width // 8])[0]
            if len(near) == 0:
                continue
            x = max(0, centre - width // 8) + int(near[len(near) // 2])
        before, after = np.nonzero(row[:x] == 0)[0], np.nonzero(row[x:] == 0)[0]
        left[y] = before[-1] + 1 if len(before) else 0
        right[y] = x + after[0] - 1 if len(after) else mask.shape[1] - 1
    rows = slice(int(top + 0.55 * height), int(top + 0.93 * height))
    lefts, rights = left[rows], right[rows]
    if (lefts >= 0).mean() < 0.7 or mask[rows, centre].mean() < 0.7:
        raise _unknown()  # trousers, a pair of shoes
    half = {
        LEFT: float(np.median(centre - lefts[lefts >= 0])),
        RIGHT: float(np.median(rights[rights >= 0] - centre)),
    }
    return _Shape(mask, centre, top, height, left, right, half)


def _dents(shape: _Shape) -> list[tuple[float, Array, Array, Array]]:
    """Return depth, start, end and deepest point of the dents of both halves.

    Each half by itself: two long sleeves would share one dent.
    """
    dents = []
    for cut in (slice(None, shape.centre), slice(shape.centre, None)):
        half = shape.mask.copy()
        half[:, cut] = 0
        outlines, _ = cv2.findContours(half, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        if not outlines:
            continue
        outline = cv2.approxPolyDP(max(outlines, key=cv2.contourArea), 1.5, True)
        hull = np.sort(cv2.convexHull(outline, returnPoints=False), axis=0)[::-1]
        try:
            found = cv2.convexityDefects(outline, hull)
        except cv2.error:  # an outline that crosses itself
            continue
        points = outline.reshape(-1, 2).astype(np.float64)
        for start, end, deepest, depth in np.asarray(found).reshape(-1, 4) if found is not None else []:
            dents.append((depth / 256, points[start], points[end], points[deepest]))
    return dents


def _half(shape: _Shape, side: int, dents: list[tuple[float, Array, Array, Array]]) -> Half:
    armpit, sleeved = _armpit(shape, side, dents)
    reach = max(4.0, abs(armpit[0] - shape.centre))
    neck = _neck(shape, side, reach)
    tip = _tip(shape, side, armpit, neck, sleeved)
    sleeve = _sleeve(shape, side, armpit, tip) if sleeved else None
    if sleeved and sleeve is None:
        tip = _tip(shape, side, armpit, neck, False)
    return Half(neck, tip, armpit, sleeve)


def _armpit(shape: _Shape, side: int, dents: list[tuple[float, Array, Array, Array]]) -> tuple[Array, bool]:
    """Return the armpit, and whether a sleeve begins there.

    It is the deepest dent of this side: above it the sleeve stands out further than the
    body does below it, or hangs down beside it.
    """
    top, height, half = shape.top, shape.height, shape.half[side]
    best: tuple[float, Array] | None = None
    for depth, p, q, deepest in dents:
        out = side * (deepest[0] - shape.centre)
        if out < 0.25 * half or depth < 0.065 * height or not top + 0.12 * height < deepest[1] < top + 0.66 * height:
            continue
        upper, lower = (p, q) if p[1] < q[1] else (q, p)
        out_upper, out_lower = side * (upper[0] - shape.centre), side * (lower[0] - shape.centre)
        shorter = lower[1] - deepest[1] > 1.2 * (deepest[1] - upper[1])
        stands_out = out_upper > out + 0.10 * half and (out_upper > out_lower - 0.02 * half or shorter)
        hangs = depth > 0.15 * height and lower[1] > top + 0.7 * height and max(out_upper, out_lower) > out + 0.1 * half
        if (stands_out or hangs) and (best is None or depth > best[0]):
            best = (depth, deepest)
    if best is not None:
        return best[1] + [0, 1], True
    edge = shape.left if side == LEFT else shape.right
    rows = [y for y in range(int(top + 0.15 * height), int(top + 0.55 * height)) if edge[y] >= 0]
    if not rows:
        raise _unknown()
    widest = max(side * (edge[y] - shape.centre) for y in rows)
    y = min(y for y in rows if side * (edge[y] - shape.centre) > 0.985 * widest)
    return np.array([edge[y], y], np.float64), False


def _first(mask: Array, x: float) -> int | None:
    """Return the first row of the garment in this column."""
    column = np.nonzero(mask[:, int(np.clip(x, 0, mask.shape[1] - 1))])[0]
    return int(column[0]) if len(column) else None


def _neck(shape: _Shape, side: int, reach: float) -> Array:
    """Return the innermost of the highest points beside the middle."""
    columns = [shape.centre + side * share * reach for share in np.linspace(0.22, 0.75, 60)]
    tops = [(_first(shape.mask, x), x) for x in columns]
    seen = [(y, x) for y, x in tops if y is not None]
    if not seen:
        raise _unknown()
    highest = min(y for y, _ in seen)
    y, x = next((y, x) for y, x in seen if y <= highest + max(1.5, 0.003 * shape.height))
    return np.array([x, y], np.float64)


def _tip(shape: _Shape, side: int, armpit: Array, neck: Array, sleeved: bool) -> Array:
    """Return the end of the shoulder: above the armpit, or the outermost place."""
    if sleeved:
        x = armpit[0] - side * 0.02 * abs(armpit[0] - shape.centre)
        y = _first(shape.mask, x)
        return np.array([x, shape.top if y is None else y], np.float64)
    best = (float(side * (neck[0] - shape.centre)), float(neck[1]))
    for y in range(int(neck[1]), int(neck[1] + 0.35 * (armpit[1] - neck[1])) + 2):
        row = np.nonzero(shape.mask[min(y, shape.mask.shape[0] - 1)])[0]
        if len(row):
            best = max(best, (float(side * (row[-1 if side > 0 else 0] - shape.centre)), float(y)))
    return np.array([shape.centre + side * best[0], best[1]], np.float64)


def _sleeve(shape: _Shape, side: int, armpit: Array, tip: Array) -> Sleeve | None:
    """Return the sleeve beyond the line from tip to armpit; None if it is tiny."""
    ys, xs = np.nonzero(shape.mask)
    beyond = ((armpit[0] - tip[0]) * (ys - tip[1]) - (armpit[1] - tip[1]) * (xs - tip[0])) * side < 0
    reach = abs(armpit[0] - shape.centre)
    beyond &= (side * (xs - shape.centre) > 0) & (side * (xs - armpit[0]) > -0.12 * reach)
    body = (ys > armpit[1] + 1) & (xs >= shape.left[ys] - 2) & (xs <= shape.right[ys] + 2) & (shape.left[ys] >= 0)
    beyond &= ~body
    mask = np.zeros_like(shape.mask)
    mask[ys[beyond], xs[beyond]] = 1
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count > 2:
        mask = (parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.uint8)
    if mask.sum() < 0.01 * shape.mask.sum():
        return None
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea)
    corners = cv2.approxPolyDP(outline, 0.028 * cv2.arcLength(outline, True), True).reshape(-1, 2).astype(np.float64)
    away = np.hypot(*(corners - (tip + armpit) / 2).T) + 0.2 * side * (corners[:, 0] - shape.centre)
    last = int(np.argmax(away))
    beside = (corners[(last + 1) % len(corners)], corners[last - 1])
    ends = (corners[last], max(beside, key=lambda p: float(np.hypot(*(p - tip)))))
    axis = (ends[0] + ends[1] - tip - armpit) / 2
    across = (tip - armpit) - axis * float(np.dot(tip - armpit, axis)) / (float(np.dot(axis, axis)) + 1e-6)
    inner, outer = sorted(ends, key=lambda p: float(np.dot(p, across)))
    return Sleeve(outer, inner, mask)


def _neckline(picture: Array, shape: _Shape, halves: dict[int, Half]) -> tuple[Array, bool]:
    """Return the middle of the front edge, and whether the back shows above it."""
    centre, height = shape.centre, shape.height
    width = int(shape.mask.any(0).sum())
    lab = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_BGR2LAB).astype(np.float32), (0, 0), 2)
    strip = lab[:, int(centre - 0.05 * width) : int(centre + 0.05 * width) + 1].mean(1)
    steps = np.abs(np.diff(strip, axis=0)).sum(1)
    highest = min(half.neck[1] for half in halves.values())
    top = _first(shape.mask, centre)
    top = shape.top if top is None else top
    back_shows = top < highest + 0.07 * height
    front = top
    if back_shows:
        first, last = int(top + 0.025 * height), int(top + 0.125 * height)
        edge = first + int(np.argmax(steps[first:last] * np.linspace(1, 0.7, last - first)))
        front = edge if steps[edge] > 3 else int(highest + 0.085 * height)
    return np.array([centre, front], np.float64), bool(back_shows)


def opening(garment: Garment) -> Array:
    """Return a mask of the inside of the back, which a neck hides when worn."""
    hole = np.zeros_like(garment.mask)
    if not garment.back_shows:
        return hole
    left, right = garment.halves[LEFT].neck, garment.halves[RIGHT].neck
    inset = 0.06 * (right - left)
    left, right = left + inset, right - inset
    curve = [
        (
            (left[0] + right[0]) / 2 + u * (right[0] - left[0]) / 2,
            garment.front[1] - (garment.front[1] - (left[1] + right[1]) / 2) * abs(u) ** 2.2,
        )
        for u in np.linspace(-1, 1, 25)
    ]
    cv2.fillPoly(hole, [pixels([(left[0], left[1] - 60), *curve, (right[0], right[1] - 60)])], 1)
    return cv2.dilate(hole, disc(1))
