"""The two paths of a WebSocket: detached, and over plain ASGI messages."""

from __future__ import annotations

import asyncio

import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from server.web.serving.handshake import Handshake


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module with ``BOTH_PATHS`` over both paths."""
    if getattr(metafunc.module, "BOTH_PATHS", False) and "ws" in metafunc.fixturenames:
        metafunc.parametrize("ws", [Handshake, WebSocketsSansIOProtocol], ids=["detached", "asgi"], indirect=True)


@pytest.fixture
def ws(request: pytest.FixtureRequest) -> type[asyncio.Protocol]:
    """Return the server's WebSocket protocol: our own, or uvicorn's."""
    protocol: type[asyncio.Protocol] = getattr(request, "param", Handshake)
    return protocol
