"""The listening socket of a web process, and its end without a lost connection.

When a listener is closed, the kernel resets every connection that it has made and the
process has not accepted yet, also one whose client has sent its request. So a process
that stops takes no more connections first (:func:`refuse_connections`), then accepts
those that are made (:func:`accept_all`), and only then closes. A client whose request
for a connection is dropped in between repeats it a second later, as TCP does; another
process that shares the port then answers.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys
from typing import Final

from server.config.settings import Config, ConfigError

UNACKNOWLEDGED_MS: Final = 8000
"""Milliseconds that sent bytes may stay unacknowledged before the kernel drops a
connection (RFC 5482): the peer has vanished, or takes nothing. This finds such a peer
long before a ping does, and without another byte sent.
"""

UNSENT_BYTES: Final = 128 * 1024
"""Maximum bytes of a connection that the kernel takes and has not sent yet.

Without a bound it takes megabytes for a client that reads nothing: as many pipelined
requests are answered for it, in bursts that delay every push. What is on its way does
not count, so a fast client with a long way is as fast as before.
"""

HANDSHAKE_SECONDS: Final = 0.01
"""Seconds between the last connection that is begun and the end of a listener: the time
for TCP's handshake, on a network as short as between a proxy and its servers.
"""

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h; Python has no name for it
_DROP_SYN: Final = (  # classic BPF: code, jump if true, jump if false, operand
    (0x30, 0, 0, 13),  # load the byte at 13: the flags of a TCP header
    (0x45, 0, 1, 0x02),  # is SYN among them?
    (0x06, 0, 0, 0),  # then drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # else keep all of it
)


def listen(config: Config, *, reuse_port: bool) -> socket.socket:
    """Return the listening socket. Raises ConfigError if the port is taken."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited. uvloop sets it itself, asyncio on sockets with a protocol's number
    # alone. Without it an answer in two writes waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; every accepted connection inherits it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
    if sys.platform == "linux":  # inherited, too
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    if reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"TRYON_PORT: {config.host}:{config.port} cannot be listened on: {error.strerror}") from error
    listener.listen(4096)
    listener.setblocking(False)
    return listener


def refuse_connections(listener: socket.socket) -> None:
    """Let no new connection begin; one whose handshake runs comes about (Linux).

    Elsewhere, and where the kernel forbids it, connections go on to come.
    """
    if sys.platform != "linux":
        return
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HL", len(_DROP_SYN), ctypes.addressof(buffer))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def accept_all(listener: socket.socket) -> list[socket.socket]:
    """Return all connections that wait to be accepted, and close the listener.

    A plain function: between the last look and the close no connection may come.
    """
    connections: list[socket.socket] = []
    with listener:
        while True:
            try:
                connection, _ = listener.accept()
            except ConnectionAbortedError:
                continue
            except OSError:  # none is left, or no descriptor is free
                return connections
            connection.setblocking(False)
            connections.append(connection)
