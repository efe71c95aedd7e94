"""Light and shade of the new garment, taken from the old clothes."""

from __future__ import annotations

from typing import Final

import numpy as np

from worker.processors.overlay.parts import Parts
from worker.processors.overlay.pose import Body
from worker.processors.overlay.spline import Array, blur, shrink

PLAIN: Final = 16
"""Lightness within which four fifths of a plain garment lie: folds can be read."""


def light_of(photo: Array, parts: Parts, body: Body) -> Array:
    """Return the factor by which each pixel of the garment is darker or brighter.

    The broad shade of the old clothes always counts, their folds only where they are
    plain: a print is no fold.
    """
    lightness = parts.lab[..., 0] + 1
    old = parts.top if parts.cloth is None else parts.top & (parts.cloth.distance(parts.lab) < 40).astype(np.uint8)
    weight = shrink(old, 3).astype(np.float32)
    if weight.sum() < 50:
        return np.full((*lightness.shape, 1), _exposure(photo, parts), np.float32)
    middle = float(np.median(lightness[weight > 0]))
    plain = float(np.percentile(np.abs(lightness[weight > 0] - middle), 80)) < PLAIN

    def mean(sigma: float) -> Array:
        blurred: Array = blur(lightness * weight, sigma)
        return blurred / (blur(weight, sigma) + 1e-3)

    wide = mean(max(3.0, 0.16 * body.width))
    shade = 0.55 * (np.clip(wide / middle, 0.7, 1.25) - 1)
    if plain:
        folds = np.clip(mean(max(1.5, 0.012 * body.width)) / np.maximum(wide, 1), 0.8, 1.12)
        shade = shade + 0.75 * (folds - 1)
    trust = blur(weight, max(2.0, 0.06 * body.width)) * min(1.0, middle / 110)
    factor: Array = (1 + np.clip(shade, -0.4, 0.02) * trust) * _exposure(photo, parts)
    return factor[..., None].astype(np.float32)


def _exposure(photo: Array, parts: Parts) -> float:
    """Return how bright the photo is: a dim room makes a dim garment."""
    lightness = parts.lab[..., 0][parts.person > 0]
    bright = float(np.percentile(lightness, 97)) / 255 if len(lightness) else 0.9
    return float(np.clip(0.80 + 0.20 * bright / 0.9, 0.75, 1.0))


def roundness(alpha: Array, body: Body) -> Array:
    """Return the factor that darkens a garment towards its edges."""
    blurred = blur(alpha, max(2.0, 0.045 * body.width))
    factor: Array = 0.80 + 0.20 * np.clip((blurred - 0.5) * 2.2, 0, 1)
    return factor[..., None]
