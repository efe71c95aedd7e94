"""A photo and a garment in, a picture out, in steps that a run reports."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np

from tryon.processor import ProcessorError
from worker.processors.overlay.keypoints import Garment, find_points
from worker.processors.overlay.layering import lay
from worker.processors.overlay.outline import cut_out
from worker.processors.overlay.parts import Parts, parts_of
from worker.processors.overlay.placement import fit
from worker.processors.overlay.pose import Body, Networks, Pose, body_of
from worker.processors.overlay.refusals import check_pose
from worker.processors.overlay.spline import Array

PHOTO_SIDE: Final = 1024
"""Pixels of the photo's and the result's longer side, at most."""
GARMENT_SIDE: Final = 768
QUALITY: Final = 92
"""Of the JPEG."""


def read_picture(data: bytes, side: int) -> tuple[Array, Array | None]:
    """Return the picture (blue, green, red) and its alpha channel, if it has one.

    Raises :class:`ProcessorError` ``unreadable_image``.
    """
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ProcessorError("unreadable_image")
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    scale = side / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if picture.shape[2] == 4:
        return np.ascontiguousarray(picture[..., :3]), np.ascontiguousarray(picture[..., 3])
    return picture, None


class Fitting:
    """The networks, and the steps from two pictures to one."""

    def __init__(self, weights: Path) -> None:
        self._networks = Networks(weights)

    def look(self, photo: Array) -> tuple[Pose, Body]:
        """Return the body in the photo, or refuse it."""
        pose = self._networks.find(photo)
        body = body_of(pose)
        check_pose(pose, body)
        return pose, body

    def separate(self, photo: Array, pose: Pose, body: Body) -> Parts:
        """Return the parts of the photo."""
        return parts_of(photo, pose, body)

    def cut(self, data: bytes) -> Garment:
        """Return the garment, or refuse it."""
        picture, alpha = read_picture(data, GARMENT_SIDE)
        return find_points(picture, cut_out(picture, alpha))

    def dress(self, photo: Array, garment: Garment, body: Body, parts: Parts) -> bytes:
        """Return the result as a JPEG."""
        result = lay(photo, garment, fit(garment, body, parts), body, parts)
        done, data = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        assert done
        return data.tobytes()
