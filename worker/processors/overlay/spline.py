"""Thin-plate splines, and pictures bent by them.

A spline maps points of the result to points of the garment, so that each pixel of the
result looks up its colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

GRID: Final = 6
"""Pixels between two points at which a spline is computed; in between it is linear."""


@dataclass(slots=True)
class Pairs:
    """Points of the photo, and where they lie in the garment."""

    to: list[Array] = field(default_factory=list)
    source: list[Array] = field(default_factory=list)

    def add(self, to: Array, source: Array) -> None:
        """Add a pair."""
        self.to.append(np.asarray(to, np.float64))
        self.source.append(np.asarray(source, np.float64))


class Spline:
    """The smoothest map that takes the points ``to`` to the points ``source``."""

    def __init__(self, to: Array, source: Array, stiffness: float = 1e-3) -> None:
        count = len(to)
        self._scale = float(np.std(to)) or 1.0
        self._points = np.asarray(to, np.float64) / self._scale
        kernel = _kernel(self._points, self._points) + stiffness * np.eye(count)
        plane = np.hstack([np.ones((count, 1)), self._points])
        system = np.zeros((count + 3, count + 3))
        system[:count, :count], system[:count, count:], system[count:, :count] = kernel, plane, plane.T
        self._weights = np.linalg.solve(system, np.vstack([source, np.zeros((3, 2))]))

    def __call__(self, points: Array) -> Array:
        """Return where these points of the result lie in the garment."""
        scaled = points / self._scale
        count = len(self._points)
        bent = _kernel(scaled, self._points) @ self._weights[:count]
        flat: Array = self._weights[count] + scaled @ self._weights[count + 1 :]
        return bent + flat


def _kernel(a: Array, b: Array) -> Array:
    squared = ((a[:, None] - b[None]) ** 2).sum(2)
    kernel: Array = squared * np.log(squared + 1e-12) / 2
    return kernel


def bend(picture: Array, alpha: Array, spline: Spline, shape: tuple[int, int], box: Array) -> tuple[Array, Array]:
    """Return the bent picture and its alpha on a canvas of ``shape`` (height, width).

    ``box`` (left, top, right, bottom) bounds what is drawn.
    """
    height, width = shape
    colour, cover = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    left, top = np.maximum(box[:2].astype(np.int32), 0)
    right, bottom = np.minimum(box[2:].astype(np.int32), [width, height])
    if right - left < 2 or bottom - top < 2:
        return colour, cover
    xs, ys = np.arange(left, right + GRID, GRID), np.arange(top, bottom + GRID, GRID)
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2).astype(np.float64)
    coarse = spline(grid).reshape(len(ys), len(xs), 2).astype(np.float32)
    at = np.meshgrid(
        np.arange(right - left, dtype=np.float32) / GRID,
        np.arange(bottom - top, dtype=np.float32) / GRID,
    )
    fine = cv2.remap(coarse, at[0], at[1], cv2.INTER_LINEAR)
    part = (slice(top, bottom), slice(left, right))
    colour[part] = cv2.remap(picture, fine[..., 0], fine[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cover[part] = cv2.remap(alpha, fine[..., 0], fine[..., 1], cv2.INTER_LINEAR, borderValue=0)
    return colour, cover


def limb(shape: tuple[int, int], points: list[Array], radii: list[float]) -> Array:
    """Return a mask of 0 and 1 of a limb: a chain of discs of changing radius."""
    mask = np.zeros(shape, np.uint8)
    for (start, end), (first, last) in zip(pairwise(points), pairwise(radii), strict=True):
        for t in np.linspace(0, 1, 24):
            centre = start + (end - start) * t
            cv2.circle(mask, (int(centre[0]), int(centre[1])), max(1, int(first + (last - first) * t)), 1, -1)
    return mask


def pixels(points: Sequence[Array | tuple[float, float]] | Array) -> Array:
    """Return the points as whole pixels, as OpenCV draws them."""
    return np.array(points).astype(np.int32)


def disc(size: float) -> Array:
    """Return a round structuring element about ``size`` pixels wide."""
    odd = max(1, int(size)) | 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (odd, odd))


def grow(mask: Array, radius: float) -> Array:
    """Return the mask, ``radius`` pixels larger on each side."""
    # A distance costs the same for each radius; a large structuring element does not.
    return (cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5) <= radius).astype(np.uint8) if mask.any() else mask


def shrink(mask: Array, radius: float) -> Array:
    """Return the mask, ``radius`` pixels smaller on each side."""
    return (cv2.distanceTransform(mask, cv2.DIST_L2, 5) > radius).astype(np.uint8)


def soften(mask: Array, sigma: float) -> Array:
    """Return the mask as floats with a soft edge of about ``sigma`` pixels."""
    return blur(mask.astype(np.float32), max(0.3, sigma))


def blur(values: Array, sigma: float) -> Array:
    """Return the values blurred; a wide blur is computed on a smaller picture."""
    factor = 2 ** max(0, int(np.log2(max(sigma, 1) / 3)))
    if factor == 1:
        return cv2.GaussianBlur(values, (0, 0), sigma)
    height, width = values.shape[:2]
    small = cv2.resize(values, (max(1, width // factor), max(1, height // factor)), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / factor), (width, height))
