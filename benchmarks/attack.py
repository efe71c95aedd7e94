"""The time of an honest upload, alone and while an attacker uploads at the full rate.

The attacker is one address with a new token for each upload, and sends its ten uploads
of a minute at once, then the next ones as they are allowed: a file of 3 KB that a
decoder blows up to 40 megapixels, which takes seconds of CPU. The honest clients are
other addresses, one upload at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import time
from collections.abc import Sequence
from typing import Any, Final

from PIL import Image

from benchmarks.installation import running_installation
from testkit import photos
from testkit.cluster import Cluster
from testkit.load import BOUNDARY, SOURCES, Http, form
from testkit.profiles import BENCHMARK, QUIET
from testkit.report import heading, percentile, table
from tryon.protocol.paths import SESSIONS

ATTACKER: Final = 0
"""Number of the attacking client, which gives it its address."""
ADDRESSES: Final = SOURCES - 1
"""Addresses of honest clients, by turns: each may make ten uploads a minute."""
AT_ONCE: Final = 10
HEAD_START_SECONDS: Final = 1.0
"""Then the attacker has every image process that it can get."""


async def main(*, uploads: int, every: float, sizes: Sequence[str], megapixels: float) -> None:
    settings: dict[str, Any] = BENCHMARK | QUIET | {"upload_rate": f"{AT_ONCE}/minute"}
    heading(f"attack: {uploads} honest uploads alone, then as many under attack", settings)
    hostile = form(bomb(int(1250 * megapixels**0.5), int(800 * megapixels**0.5)))
    rows: list[list[str | float | int | None]] = []
    notes: list[str] = []
    for size in sizes:
        honest = form(photos.small() if size == "small" else photos.large())
        async with running_installation(**settings) as cluster:
            await _uploads(cluster, honest, 1, first=0)  # the first process has started
            alone = await _uploads(cluster, honest, uploads, first=1, every=every)
            attack = asyncio.create_task(_attack(cluster, hostile))
            try:
                await asyncio.sleep(HEAD_START_SECONDS)
                attacked = await _uploads(cluster, honest, uploads, first=1 + uploads, every=every)
            finally:
                attack.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await attack
        for name, times in (("alone", alone), ("under attack", attacked)):
            rows.append([f"{size}, {name}", len(times), *(percentile(times, share) for share in (0.5, 0.95, 1.0))])
        ratio = percentile(attacked, 0.5) / percentile(alone, 0.5)
        notes.append(f"{size}: median under attack / alone = {ratio:.2f}")
    table(("upload", "uploads", "p50 ms", "p95 ms", "max ms"), rows)
    print("\n".join(notes))


def bomb(width: int, height: int) -> bytes:
    """Return a small AVIF that is large when decoded: film grain over one colour."""
    out = io.BytesIO()
    picture = Image.new("RGBA", (width, height), (120, 90, 60, 128))
    picture.save(out, "AVIF", quality=40, speed=8, advanced={"film-grain-test": "16"})
    return out.getvalue()


async def _uploads(cluster: Cluster, body: bytes, count: int, *, first: int, every: float = 0.0) -> list[float]:
    """Upload photos one after another; return the milliseconds of each.

    One begins every ``every`` seconds, or when the one before has ended. Each has a
    connection of its own: an idle one would be closed meanwhile.
    """
    times = []
    for number in range(first, first + count):
        started = time.perf_counter()
        client = Http(cluster.port, ATTACKER + 1 + number % ADDRESSES)
        await client.upload(body)
        times.append((time.perf_counter() - started) * 1000)
        client.close()
        await asyncio.sleep(started + every - time.perf_counter())
    return times


async def _attack(cluster: Cluster, body: bytes) -> None:
    """Upload without a pause as often as one address may, until cancelled."""
    kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"

    async def one() -> None:
        while True:
            client = Http(cluster.port, ATTACKER)
            try:
                status, head, answer = await client.request("POST", SESSIONS, kind, body)
            finally:
                client.close()
            if status not in (201, 429):
                raise SystemExit(f"the attack is refused: {status} {answer!r}")
            if status == 429:
                found = re.search(rb"(?i)retry-after: (\d+)", head)
                await asyncio.sleep(int(found[1]) if found else 1)

    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
