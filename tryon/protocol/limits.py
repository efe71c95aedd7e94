"""The limits of a server as JSON, so that a client can check before it sends."""

from __future__ import annotations

import msgspec


class UploadsView(msgspec.Struct, frozen=True):
    """Uploads of one client address: at most ``count`` in any window of ``seconds``."""

    count: int
    seconds: int


class LimitsView(msgspec.Struct, frozen=True):
    """Limits of a server, and how long it keeps things.

    ``formats``: media types of photos. Sides and pixels are those of the decoded photo;
    a role of the processor may allow less. ``uploads``: null without a limit.
    ``retention_seconds``: life of a session and its photos. ``deadline_seconds``: from
    creation to the latest end. ``link_seconds``: life of a signed link.
    ``max_attempts``: lost workers after which a session fails. ``demo``: whether an
    owner may crash the worker of a session. ``anonymous``: whether clients may upload
    without being users of the integrator.
    """

    formats: list[str]
    max_image_bytes: int
    max_body_bytes: int
    max_pixels: int
    min_side: int
    max_side: int
    max_params_bytes: int
    uploads: UploadsView | None
    retention_seconds: float
    deadline_seconds: float
    link_seconds: int
    max_attempts: int
    demo: bool
    anonymous: bool = True
