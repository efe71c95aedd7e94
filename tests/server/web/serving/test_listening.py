"""The listening socket: how it is made, and how it ends."""

from __future__ import annotations

import contextlib
import socket
import sys

import pytest

from server.config.settings import Config, ConfigError
from server.web.serving.listening import accept_all, listen, refuse_connections


def test_listen_refuses_taken_port() -> None:
    """The error names the setting and the address."""
    with listen(Config(port=0), reuse_port=False) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"TRYON_PORT: 127\.0\.0\.1:{port} cannot be listened on"):
            listen(Config(port=port), reuse_port=False)


def test_listen_shares_port_when_asked() -> None:
    """Several web processes may listen on one port."""
    with listen(Config(port=0), reuse_port=True) as first:
        listen(Config(port=first.getsockname()[1]), reuse_port=True).close()


def test_connections_send_small_writes_at_once() -> None:
    """An answer is two writes; the second must not wait for the client."""
    with listen(Config(port=0), reuse_port=False) as listener, socket.socket() as client:
        client.connect(listener.getsockname())
        listener.setblocking(True)
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_accept_all_returns_connections_of_backlog() -> None:
    """It takes connections that the kernel has made, and closes the listener."""
    with listen(Config(port=0), reuse_port=False) as listener:
        peers = [socket.create_connection(listener.getsockname()) for _ in range(5)]
        accepted = accept_all(listener)
        assert {each.getpeername() for each in accepted} == {peer.getsockname() for peer in peers}
        assert listener.fileno() == -1
    for each in (*accepted, *peers):
        each.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux filters a listener's packets")
def test_refuse_connections_drops_new_ones_and_keeps_made_ones() -> None:
    """A new client gets no answer, so it asks again; an earlier one is connected."""
    with listen(Config(port=0), reuse_port=False) as listener, socket.socket() as late:
        early = socket.create_connection(listener.getsockname())
        refuse_connections(listener)
        late.setblocking(False)
        assert late.connect_ex(listener.getsockname()) != 0
        accepted = accept_all(listener)
        assert [each.getpeername() for each in accepted] == [early.getsockname()]
        for each in (*accepted, early):
            each.sendall(b"connected")
            each.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds unsent bytes")
def test_kernel_takes_little_for_client_that_reads_nothing() -> None:
    """A connection takes less than a mebibyte until its client reads."""
    with listen(Config(port=0), reuse_port=False) as listener, socket.socket() as client:
        client.connect(listener.getsockname())
        listener.setblocking(True)
        connection, _ = listener.accept()
        with connection:
            connection.setblocking(False)
            taken = 0
            with contextlib.suppress(BlockingIOError):
                while taken < 2**24:
                    taken += connection.send(bytes(2**16))
    assert taken < 2**20
