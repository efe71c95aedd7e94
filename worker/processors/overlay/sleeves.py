"""Where the points of a sleeve belong: along the bones of an arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from worker.processors.overlay.keypoints import Half, Sleeve
from worker.processors.overlay.pose import Body
from worker.processors.overlay.spline import Array, Pairs

EASE: Final = 0.02
"""How much wider than the arm a sleeve is at each side, in shoulder widths."""
LONG: Final = 0.78
"""Share of the arm from which a sleeve is a long one, and ends at the wrist."""
STEPS: Final = 7
OUTER, INNER = 1, -1
"""The seams of a sleeve: from the shoulder's tip, and from the armpit."""


@dataclass(frozen=True, slots=True)
class SleeveFit:
    """A sleeve along an arm."""

    pairs: Pairs
    ring: Array
    """The sleeve's outline in the photo, in order."""
    root: list[Array]
    """The bones inside the sleeve."""
    beyond: list[Array]
    """The bones from the sleeve's end to the finger tips."""


class Bones:
    """The line from a shoulder over the elbow to the wrist, measured in pixels."""

    def __init__(self, body: Body, side: int, tip: Array) -> None:
        self.shoulder, self.elbow, self.wrist = body.shoulder[side], body.elbow[side], body.wrist[side]
        self.upper = float(np.hypot(*(self.elbow - self.shoulder))) + 1e-6
        self.lower = float(np.hypot(*(self.wrist - self.elbow))) + 1e-6
        self._upper, self._lower = (self.elbow - self.shoulder) / self.upper, (self.wrist - self.elbow) / self.lower
        # The line begins level with the shoulder's tip.
        self._start = self.shoulder - self._upper * float(np.dot(self.shoulder - tip, self._upper))
        self._turn = 0.25 * body.width
        self._outward = body.outward(side)
        self.to_elbow = self.along(self.elbow)

    def along(self, point: Array) -> float:
        """Return how far along the upper arm a point lies."""
        return float(np.dot(point - self._start, self._upper))

    def at(self, distance: float) -> Array:
        """Return the point of the line at this distance from its start."""
        if distance < self.to_elbow:
            return self._start + self._upper * distance
        return self.elbow + self._lower * (distance - self.to_elbow)

    def normal(self, distance: float) -> Array:
        """Return the vector of length 1 across the arm there, away from the body."""
        turned = float(np.clip((distance - self.to_elbow) / self._turn + 0.5, 0, 1))
        axis = self._upper * (1 - turned) + self._lower * turned
        normal = np.array([-axis[1], axis[0]]) / (np.hypot(*axis) + 1e-6)
        return normal if np.dot(normal, self._outward) > 0 else -normal

    def usual_radius(self, distance: float) -> float:
        """Return the radius of most arms there, in shoulder widths."""
        return float(np.interp(distance, [0, self.to_elbow, self.to_elbow + self.lower], [0.155, 0.125, 0.09]))


def sleeve_fit(
    half: Half, sleeve: Sleeve, body: Body, side: int, tip: Array, armpit: Array, person: Array, scale: float
) -> SleeveFit:
    """Return where the sleeve belongs, given the seat of its tip and its armpit."""
    bones = Bones(body, side, tip)
    length = min(float(np.hypot(*(sleeve.outer - half.tip))) * scale, bones.upper + bones.lower)
    if length > LONG * (bones.upper + bones.lower):
        length = bones.to_elbow + bones.lower * 1.02
    ends = {OUTER: (0.0, length), INNER: (bones.along(armpit), 0.0)}
    shorter = length * (0.98 if length > 1.1 * bones.upper else 0.86)
    ends[INNER] = (ends[INNER][0], max(shorter, ends[INNER][0] + 0.05 * body.width))
    roots = {OUTER: tip, INNER: armpit - body.outward(side) * 0.08 * body.width}
    cuff = float(np.hypot(*(sleeve.outer - sleeve.inner))) * scale
    pairs = Pairs()
    for seam, (begin, end) in ends.items():
        for share in np.linspace(0, 1, STEPS):
            distance = begin + share * (end - begin)
            point = _on_arm(bones, seam, distance, float(share), cuff, person, body.width)
            # The seam leaves its root, and lies on the arm a little further on.
            on_arm = (distance - begin) / (0.14 * body.width) if seam == OUTER else 2 * share
            blend = min(1.0, float(on_arm))
            root = roots[seam] + (bones.at(distance) - bones.at(begin))
            pairs.add(point * blend + root * (1 - blend), _on_seam(half, sleeve, seam, float(share)))
    ring = np.array(pairs.to[:STEPS] + pairs.to[STEPS:][::-1])
    return SleeveFit(pairs, ring, *_covered(bones, length, body.hand[side]))


def _on_arm(bones: Bones, seam: int, distance: float, share: float, cuff: float, person: Array, width: float) -> Array:
    """Return where a seam runs: at the arm's own edge, and a little beside it."""
    at, across = bones.at(distance), seam * bones.normal(distance)
    usual = bones.usual_radius(distance) * width
    radius = reach(person, at, across, 0.75 * usual, 1.3 * usual) + EASE * width
    radius = float(np.clip(0.45 * cuff, radius, 1.15 * radius))
    return at + across * radius * (1.0 if seam == OUTER else 1.05 + 0.25 * (1 - share))


def reach(person: Array, start: Array, direction: Array, least: float, most: float) -> float:
    """Return how far the person's edge is from a point in a direction."""
    height, width = person.shape
    for step in range(int(least), int(most)):
        x, y = (int(v) for v in start + direction * step)
        if not (0 <= y < height and 0 <= x < width) or not person[y, x]:
            return float(step)
    return most


def _covered(bones: Bones, length: float, hand: Array) -> tuple[list[Array], list[Array]]:
    """Return the bones inside a sleeve of this length, and those beyond its end."""
    end = bones.at(length * 0.98)
    if length < bones.to_elbow:
        return [bones.shoulder, end], [end, bones.elbow, bones.wrist, hand]
    if length < bones.to_elbow + 0.9 * bones.lower:
        return [bones.shoulder, bones.elbow, end], [end, bones.wrist, hand]
    return [bones.shoulder, bones.elbow, bones.wrist], [bones.wrist, hand]


def _on_seam(half: Half, sleeve: Sleeve, seam: int, share: float) -> Array:
    """Return a point of the sleeve's outer or inner edge in the garment.

    It lies where the straight line between the ends of the edge, moved sideways, meets
    the outline.
    """
    outer, inner = (half.tip, sleeve.outer), (half.armpit, sleeve.inner)
    (low, high), (other_low, other_high) = (outer, inner) if seam == OUTER else (inner, outer)
    point = low + (high - low) * share
    out = point - (other_low + (other_high - other_low) * share)
    length = float(np.hypot(*out)) + 1e-6
    height, width = sleeve.mask.shape
    if share in {0.0, 1.0}:
        return point
    for step in range(int(0.5 * length), -int(0.4 * length), -1):
        at = point + out / length * step
        x, y = int(at[0]), int(at[1])
        if 0 <= x < width and 0 <= y < height and sleeve.mask[y, x]:
            return at
    return point
