"""The settings that bound what a client may cost: queue, storage, connections."""

from __future__ import annotations

from dataclasses import dataclass

from server.config import parsing
from server.config.rows import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """A part of the settings; :class:`~server.config.settings.Config` has all."""

    queue_limit: int = setting(1000, "Waiting sessions beyond which uploads are refused.", parsing.integer(1))
    queue_share_per_owner: float | None = setting(
        0.05,
        "Share of TRYON_QUEUE_LIMIT that the waiting sessions of one client token may have; or off.",
        parsing.or_off(parsing.number(float, 0, 1)),
    )
    queue_share_per_address: float | None = setting(
        0.1,
        "Share of TRYON_QUEUE_LIMIT that the waiting sessions of one client address may have; or off.",
        parsing.or_off(parsing.number(float, 0, 1)),
    )
    stored_bytes_per_owner: int | None = setting(
        2 * 2**30,
        "Photos and results of one client token, until they are erased; or off.",
        parsing.or_off(parsing.integer(1, 2**50)),
        unit="bytes",
    )
    stored_bytes_per_address: int | None = setting(
        8 * 2**30,
        "Photos and results of one client address, until they are erased; or off.",
        parsing.or_off(parsing.integer(1, 2**50)),
        unit="bytes",
    )
    image_max_bytes: int = setting(10 * 2**20, "Largest image file.", parsing.integer(1024), unit="bytes")
    body_max_bytes: int = setting(22 * 2**20, "Largest upload body.", parsing.integer(2048), unit="bytes")
    image_min_side: int = setting(64, "Shortest side of an image.", parsing.integer(1), unit="pixels")
    image_max_side: int = setting(8192, "Longest side of an image.", parsing.integer(1, 65535), unit="pixels")
    image_max_pixels: int = setting(40_000_000, "Most pixels of an image.", parsing.integer(1), unit="pixels")
    uploads_per_address: int = setting(32, "Uploads at once per client address.", parsing.integer(1))
    spooled_bytes_per_address: int = setting(
        256 * 2**20,
        "Bytes that the unfinished uploads of a client address may hold.",
        parsing.integer(2048, 2**50),
        unit="bytes",
    )
    spooled_bytes_per_process: int = setting(
        2**30,
        "Bytes that the unfinished uploads to a web process may hold, in memory and in anonymous files.",
        parsing.integer(2048, 2**50),
        unit="bytes",
    )
    sockets_per_address: int = setting(200, "Open sockets per client address.", parsing.integer(1))
    sockets_per_session: int = setting(20, "Open sockets per session.", parsing.integer(1))
    sockets_per_owner: int = setting(
        20, "Open sockets that follow all sessions of an owner, per owner and web process.", parsing.integer(1)
    )
    sockets_per_process: int = setting(20000, "Open sockets per web process.", parsing.integer(1))
    connections_per_address: int = setting(
        250, "HTTP connections per address of a peer; those of trusted proxies have no limit.", parsing.integer(1)
    )
    connections_per_process: int | None = setting(
        None,
        "Connections per web process, sockets included.",
        parsing.integer(1),
        shown="the limit of open files less 512",
    )
