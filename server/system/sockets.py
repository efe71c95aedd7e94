"""Options of TCP sockets, by which the kernel notices that the other end is gone."""

from __future__ import annotations

import socket
from typing import Final

UNACKNOWLEDGED_MS: Final = 4000
"""Time after which the kernel closes a connection whose bytes, or keepalive probes, are
not acknowledged (``TCP_USER_TIMEOUT``, Linux).
"""

KEEPALIVE: Final = {"TCP_KEEPIDLE": 3, "TCP_KEEPALIVE": 3, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3}
"""Seconds of silence before the first keepalive probe, seconds between two, and how
many may be lost. macOS calls the first ``TCP_KEEPALIVE``.
"""


def notice_death(connected: socket.socket) -> None:
    """Have the kernel notice that the machine at the other end has vanished."""
    if connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (KEEPALIVE | {"TCP_USER_TIMEOUT": UNACKNOWLEDGED_MS}).items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
