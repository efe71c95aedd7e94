"""`GET /api/tryon/limits`: what a client may check before it sends."""

from __future__ import annotations

from server.config.parsing import UploadRate
from server.config.settings import Config
from server.web.api.limits import limits
from testkit.running import Web
from tryon.protocol.limits import UploadsView
from tryon.protocol.paths import LIMITS


async def test_limits_are_those_of_the_settings(web: Web) -> None:
    """Every field is filled; formats are what the decoders of this machine read."""
    answer = await web.client.get(LIMITS)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    shown = answer.json()
    assert shown.pop("formats")[:3] == ["image/jpeg", "image/png", "image/webp"]
    config = web.config
    assert shown == {
        "max_image_bytes": config.image_max_bytes,
        "max_body_bytes": config.body_max_bytes,
        "max_pixels": config.image_max_pixels,
        "min_side": config.image_min_side,
        "max_side": config.image_max_side,
        "max_params_bytes": 4096,
        "uploads": None,
        "retention_seconds": config.retention_seconds,
        "deadline_seconds": config.deadline_seconds,
        "link_seconds": config.link_seconds,
        "max_attempts": config.max_attempts,
        "demo": False,
        "anonymous": True,
    }


def test_limits_tell_the_upload_rate() -> None:
    """It is a number of uploads in a window of seconds."""
    assert limits(Config(upload_rate=UploadRate(10, 60))).uploads == UploadsView(10, 60)
