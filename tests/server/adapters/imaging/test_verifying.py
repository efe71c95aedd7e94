"""Results in image processes: one file does nothing to another, or to the caller."""

from __future__ import annotations

import asyncio
import hashlib
import io

import pytest

from server.domain.outputs import output_limits
from testkit import films
from testkit.originals import plain
from testkit.photos import encoded
from tests.server.adapters.imaging.pools import Gate, Start, gone, imaging_program, photo
from tryon.protocol.errors import TryOnError, Unavailable

LIMITS = output_limits(4_000_000)


async def _refused(imaging, data: bytes, type: str) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(TryOnError) as caught:
        await imaging.verify(io.BytesIO(data), type, generated=False)
    return caught.value.code


async def test_result_comes_back_verified(start: Start) -> None:
    """Its type, its size and the hash of what is left of it are known."""
    imaging = start(LIMITS, program=imaging_program())
    jpeg = encoded(plain(80), "JPEG", comment=b"Elm Street 5")
    shown = await imaging.verify(io.BytesIO(jpeg), "image/jpeg", generated=True)
    assert (shown.type, shown.extension, shown.width, shown.height) == ("image/jpeg", "jpg", 80, 80)
    assert shown.sha256 == hashlib.sha256(shown.data).hexdigest()
    assert b"trainedAlgorithmicMedia" in shown.data
    assert b"Elm Street" not in shown.data


async def test_film_comes_back_verified(start: Start) -> None:
    """Films pass through the same process."""
    imaging = start(LIMITS, program=imaging_program())
    for type, film in (("video/mp4", films.mp4()), ("video/webm", films.webm())):
        shown = await imaging.verify(io.BytesIO(film), type, generated=False)
        assert (shown.type, shown.width) == (type, films.WIDTH)
        assert films.SECRET not in shown.data


@pytest.mark.slow
async def test_hostile_result_is_refused_and_next_passes(start: Start) -> None:
    """Text, another type, a crash, a loop and too much memory end their own file."""
    imaging = start(LIMITS, work_seconds=5.0)
    assert await _refused(imaging, b"no picture...", "image/jpeg") == "unsupported_image"
    assert await _refused(imaging, photo().getvalue(), "image/jpeg") == "unsupported_image"
    assert await _refused(imaging, b"crash", "image/png") == "unreadable_image"
    assert await _refused(imaging, b"burn", "image/png") == "unreadable_image"
    assert await _refused(imaging, b"eat", "image/png") == "unreadable_image"
    assert await _refused(imaging, b"say image/gif 1 1", "image/png") == "unreadable_image"
    assert (await imaging.verify(photo(), "image/png", generated=False)).width == 100


@pytest.mark.parametrize("type", ["text/html", "image/jpeg 0 x", "", "JPEG"])
async def test_unknown_type_reaches_no_process(start: Start, type: str) -> None:
    """A type is one word of a request, and one of five."""
    imaging = start(LIMITS)
    assert await _refused(imaging, b"", type) == "unsupported_image"
    assert imaging.pids == []


async def test_idle_pool_keeps_no_process_when_told(start: Start) -> None:
    """A worker that has nothing to verify has no process for it."""
    imaging = start(LIMITS, program=imaging_program(), keep=0, idle_seconds=0.05)
    await imaging.verify(photo(), "image/png", generated=False)
    [pid] = imaging.pids
    await gone(pid)
    assert imaging.pids == []
    assert (await imaging.verify(photo(), "image/png", generated=False)).width == 100


async def test_closed_pool_is_unavailable(start: Start, gate: Gate) -> None:
    """A file that was not looked at is not bad: it may pass later."""
    imaging = start(LIMITS)
    await imaging.close()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(imaging.verify(photo(), "image/png", generated=False), 5)
