"""The garment cut out of its plain ground."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from tryon.processor import ProcessorError
from worker.processors.overlay.spline import Array

DARKER: Final = 0.4
LIGHTER: Final = 0.6
"""Weights of lightness beside colour: the ground has shadows."""
DISTANT: Final = 11.0
"""Difference from the ground that is never ground, whatever the garment's colour."""
PLAIN: Final = 0.75
"""Share of the rim that must look like the ground."""


def cut_out(picture: Array, alpha: Array | None) -> Array:
    """Return a mask of 0 and 1 of the garment.

    A transparent ground is trusted; otherwise the ground is what looks like the rim and
    is joined to it. Raises :class:`ProcessorError` ``garment_not_found``.
    """
    clear = alpha is not None and (alpha < 128).mean() > 0.02
    mask = (alpha > 127).astype(np.uint8) if alpha is not None and clear else _not_ground(picture)
    mask = _largest(cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)))
    _fill_holes(mask)
    share = float(mask.mean())
    if not 0.04 < share < 0.92:
        raise ProcessorError("garment_not_found", "There is no garment on a plain ground in the second picture.")
    return mask


def _not_ground(picture: Array) -> Array:
    height, width = picture.shape[:2]
    band = max(3, min(height, width) // 60)
    lab = cv2.cvtColor(picture, cv2.COLOR_BGR2LAB).astype(np.float32)
    rim = np.concatenate([part.reshape(-1, 3) for part in (lab[:band], lab[-band:], lab[:, :band], lab[:, -band:])])
    ground = np.median(rim, 0)
    distance, on_rim = _distance(lab, ground), _distance(rim, ground)
    if (on_rim < DISTANT).mean() < PLAIN:
        raise ProcessorError("garment_not_found", "The garment must lie on a plain ground, in a picture of its own.")
    inner = distance[int(height * 0.35) : int(height * 0.65), int(width * 0.35) : int(width * 0.65)]
    limit = float(np.clip(0.33 * np.median(inner), max(2.2, 1.3 * float(np.percentile(on_rim, 85))), DISTANT))
    near = np.where(distance < limit, 255, 0).astype(np.uint8)
    near[:1] = near[-1:] = near[:, :1] = near[:, -1:] = 255
    cv2.floodFill(near, np.zeros((height + 2, width + 2), np.uint8), (0, 0), 128)
    return (near != 128).astype(np.uint8)


def _distance(lab: Array, ground: Array) -> Array:
    away = lab - ground
    away[..., 0] *= np.where(away[..., 0] < 0, DARKER, LIGHTER)
    distance: Array = np.sqrt((away**2).sum(-1))
    return distance


def _largest(mask: Array) -> Array:
    """Return the largest connected part."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count <= 1:
        return mask
    return (parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.uint8)


def _fill_holes(mask: Array) -> None:
    """Close the holes that are small: they are print, not openings."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    total = int(mask.sum())
    for part in range(1, count):
        inside = stats[part, cv2.CC_STAT_LEFT] > 0 and stats[part, cv2.CC_STAT_TOP] > 0
        if inside and stats[part, cv2.CC_STAT_AREA] < 0.02 * total:
            mask[parts == part] = 1
