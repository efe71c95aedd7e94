"""Names of receivers are resolved where a silent name server holds up nothing else."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from server.adapters.webhooks import names
from server.adapters.webhooks.names import Names
from server.adapters.webhooks.sender import Undelivered, WebhookSender
from server.config.webhook_url import parse_webhook_url

ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 0))]


class NameServer:
    """Answers for every host but those that begin with ``silent``."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.asked: list[str] = []

    def resolve(self, host: str, *_: Any, **__: Any) -> Any:
        self.asked.append(host)
        if host.startswith("silent"):
            self.goes_on.wait(30)
            raise socket.gaierror("no answer")
        return ANSWER


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.resolve)
    yield server
    server.goes_on.set()


async def test_silent_name_server_holds_one_thread(name_server: NameServer) -> None:
    """Attempts end in time; asyncio's own threads and other names go on."""
    sender = WebhookSender(private_allowed=True, seconds=0.5)
    url = parse_webhook_url("https://silent.example/")
    attempts = await asyncio.gather(*(sender.post(url, {}, b"{}") for _ in range(50)), return_exceptions=True)
    assert {str(each) for each in attempts} == {"no answer in time"}
    assert all(isinstance(each, Undelivered) for each in attempts)
    assert name_server.asked == ["silent.example"]
    async with asyncio.timeout(5):
        assert await asyncio.to_thread(int) == 0
        assert await Names().addresses("shop.example") == ["93.184.216.34"]


async def test_name_is_asked_again_after_its_answer(name_server: NameServer) -> None:
    """An answer serves the attempts that waited for it, and no later one."""
    resolving = Names()
    for _ in range(2):
        both = await asyncio.gather(*(resolving.addresses("shop.example") for _ in range(2)))
        assert both == [["93.184.216.34"]] * 2
    assert name_server.asked == ["shop.example"] * 2
    call = asyncio.create_task(resolving.addresses("silent.example"))
    await asyncio.sleep(0)
    name_server.goes_on.set()
    with pytest.raises(socket.gaierror):
        await call


async def test_threads_are_bounded(name_server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host too many is refused at once; an address needs no thread."""
    monkeypatch.setattr(names, "THREADS", 1)
    resolving = Names()
    first = asyncio.create_task(resolving.addresses("silent.example"))
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="too many"):
        await resolving.addresses("shop.example")
    assert await resolving.addresses("2001:db8::1") == ["2001:db8::1"]
    first.cancel()
    await asyncio.wait({first})
