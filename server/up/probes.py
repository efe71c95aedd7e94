"""Questions to a starting program: whether it answers, and whether it is ready.

A program of another project has no other way to report that it is ready.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from server.up.errors import UpError
from tryon.protocol.paths import HEALTH, PROCESSOR, READY

READY_SECONDS: Final = 60.0
"""Time for the stack to become ready; then something hangs."""
PROCESSOR_SECONDS: Final = 900.0
"""Time for the processor to start and to be published: it may load weights."""
PROBE_SECONDS: Final = 0.03
"""Pause between two looks at a starting program."""
ANSWER_SECONDS: Final = 2.0
"""Time for an answer over HTTP."""


async def until(holds: Callable[[], Awaitable[bool]], name: str, seconds: float | None = None) -> None:
    """Look again and again.

    Raises :class:`UpError` after ``seconds``, by default :data:`READY_SECONDS`.
    """
    seconds = READY_SECONDS if seconds is None else seconds
    try:
        async with asyncio.timeout(seconds):
            while not await holds():
                await asyncio.sleep(PROBE_SECONDS)
    except TimeoutError:
        raise UpError(f"{name} was not ready within {seconds:g} s", status=1) from None


def reachable(host: str) -> str:
    """Return where this machine reaches a server that listens on ``host``.

    A wildcard is no destination.
    """
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


async def valkey_answers(path: Path) -> bool:
    """Return whether a Valkey on this socket serves commands."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        # -LOADING while it reads the append-only file; -MISCONF while its disk is full.
        return (await reader.readline()).startswith((b"+PONG", b"-MISCONF"))
    except OSError:
        return False
    finally:
        writer.close()


async def api_ready(host: str, port: int, *, name: str) -> bool:
    """Return whether the API says that it is ready; ``name``: a Host that it serves."""
    status, _ = await _get(host, port, READY, name)
    return status == 200


async def healthy(host: str, port: int, *, name: str, workers: int, token: str | None = None) -> bool:
    """Return whether nothing is down, and as many workers as these are there.

    A check that has found something down is repeated after a second: ask when
    everything has started. ``token``: what opens the private paths, if that is needed.
    """
    status, health = await _get(host, port, HEALTH, name, token)
    return status == 200 and _workers_seen(health) >= workers


async def processor_published(host: str, port: int, *, name: str) -> bool:
    """Return whether a living worker has said what its processor takes.

    Only then an upload is accepted.
    """
    status, processor = await _get(host, port, PROCESSOR, name)
    return status == 200 and isinstance(processor, dict) and processor.get("available") is True


async def _get(host: str, port: int, path: str, name: str, token: str | None = None) -> tuple[int, Any]:
    """Return status and JSON of a GET; 0 and None if there is no answer."""
    head = [f"GET {path} HTTP/1.1", f"Host: {name}", "Connection: close"]
    if token is not None:
        head.append(f"Authorization: Bearer {token}")
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write("\r\n".join([*head, "", ""]).encode())
                answer, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
                return int(answer.split(None, 2)[1]), json.loads(body)
            finally:
                writer.close()
    except (OSError, ValueError, IndexError, TimeoutError):
        return 0, None


def _workers_seen(health: Any) -> int:
    try:
        return int(health["checks"]["workers"]["count"])
    except (KeyError, TypeError, ValueError):
        return 0
