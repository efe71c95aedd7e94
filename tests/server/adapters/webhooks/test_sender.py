"""Webhooks leave as they should, and reach no address that they should not."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from server.adapters.webhooks import sender
from server.adapters.webhooks.sender import Undelivered, WebhookSender
from server.config.webhook_url import parse_webhook_url
from testkit.receivers import receiving


async def _refusal(url: str, *, private_allowed: bool = True, seconds: float = 5.0) -> str:
    with pytest.raises(Undelivered) as caught:
        await WebhookSender(private_allowed=private_allowed, seconds=seconds).post(parse_webhook_url(url), {}, b"{}")
    return str(caught.value)


async def test_message_arrives_whole() -> None:
    """Method, target, headers and body are those that were given."""
    async with receiving() as receiver:
        body = b'{"text": "' + b"a" * 100_000 + b'"}'
        await WebhookSender(private_allowed=True).post(parse_webhook_url(receiver.url), {"webhook-id": "one"}, body)
        [received] = receiver.received
        assert received.target == "/hook?from=tryon"
        assert received.body == body
        assert received.headers["host"] == f"127.0.0.1:{receiver.port}"
        assert received.headers["content-type"] == "application/json"
        assert received.headers["webhook-id"] == "one"


@pytest.mark.parametrize("status", [200, 202, 204, 299])
async def test_every_2xx_is_delivered(status: int) -> None:
    """Whatever the receiver means by it."""
    async with receiving(f"HTTP/1.1 {status} Fine\r\n\r\n".encode()) as receiver:
        await WebhookSender(private_allowed=True).post(parse_webhook_url(receiver.url), {}, b"{}")


async def test_other_answers_are_failures() -> None:
    """Refusals, errors, redirects, nonsense, endless lines, and none at all."""
    redirect = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n"
    answers = [b"HTTP/1.1 503 Busy\r\n\r\n", redirect, b"SSH-2.0\r\n", b"a" * 100_000, b"", b"HTTP/1.1 99999 x\r\n"]
    async with receiving(*answers) as receiver:
        assert await _refusal(receiver.url) == "answered 503"
        assert await _refusal(receiver.url) == "answered 302"
        for _ in answers[2:]:
            assert await _refusal(receiver.url)
        assert len(receiver.received) == len(answers)  # the redirect was not followed


async def test_silence_ends_in_time() -> None:
    """A receiver that never answers holds nothing up."""
    async with receiving(usual=b"silence") as receiver:
        assert await _refusal(receiver.url, seconds=0.2) == "no answer in time"


async def test_closed_port_is_a_failure() -> None:
    """The text names no address: it stands in a log."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refusal = await _refusal(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert refusal == "the connection failed: ConnectionRefusedError"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "localhost"]
)
async def test_private_address_is_not_connected_to(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a name; and no connection is begun."""

    async def connect(*_: Any, **__: Any) -> Any:
        raise AssertionError("connected")

    monkeypatch.setattr(asyncio, "open_connection", connect)
    assert await _refusal(f"https://{host}/", private_allowed=False) == "the address is private"


async def test_connection_goes_to_the_address_that_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means another address at its next resolution reaches nothing."""
    asked: list[str] = []

    async def connect(host: str, port: int, **_: Any) -> Any:
        asked.append(host)
        raise ConnectionRefusedError

    def resolve(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443)) for each in ("10.0.0.1", "93.184.216.34")]

    monkeypatch.setattr(asyncio, "open_connection", connect)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert "failed" in await _refusal("https://shop.example/", private_allowed=False)
    assert asked == ["93.184.216.34"]


async def test_plain_http_is_refused_on_the_internet() -> None:
    """The message and its signature would be read on the way."""
    assert await _refusal("http://shop.example/", private_allowed=False) == "http is not allowed"


def test_attempt_is_bounded() -> None:
    """The documentation says how long."""
    assert sender.SEND_SECONDS == 10.0
