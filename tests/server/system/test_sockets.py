"""Options of TCP sockets."""

from __future__ import annotations

import socket

import pytest

from server.system.sockets import UNACKNOWLEDGED_MS, notice_death


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
def test_tcp_socket_notices_a_vanished_peer_within_six_seconds() -> None:
    """By unanswered probes when idle, by missing acknowledgements else."""
    with socket.socket() as connected:
        notice_death(connected)
        options = [
            connected.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"))
            for name in ("KEEPIDLE", "KEEPINTVL", "KEEPCNT", "USER_TIMEOUT")
        ]
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    idle, interval, count, unacknowledged = options
    assert idle + interval * count <= 6
    assert unacknowledged == UNACKNOWLEDGED_MS <= 6000


def test_unix_socket_is_left_alone() -> None:
    """It has no such options, and its peer is on the same machine."""
    with socket.socket(socket.AF_UNIX) as connected:
        notice_death(connected)
        assert not connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
