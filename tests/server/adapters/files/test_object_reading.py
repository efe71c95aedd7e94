"""Reading an object piece by piece: each pause is bounded, the whole is not."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from server.adapters.files.object_calls import ANSWER_SECONDS
from server.adapters.files.object_connection import SILENT_SECONDS, connect
from server.adapters.files.object_reading import ObjectFile
from server.config.storage_url import parse_storage_url
from testkit.virtual_time import VirtualLoop, run_virtually
from tryon.protocol.errors import Unavailable

PIECES = 16
PIECE = b"x" * 1000


class Answer:
    """What obstore returns for an object whose pieces come one after each pause."""

    def __init__(self, pause_seconds: float) -> None:
        self.meta = {"size": PIECES * len(PIECE), "e_tag": '"1"', "last_modified": datetime.now(UTC)}
        self._pause = pause_seconds
        self._left = PIECES

    def stream(self, min_chunk_size: int) -> Answer:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(self._pause)
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        return PIECE


async def downloaded(pause_seconds: float) -> tuple[bytes, float]:
    """Return a whole object and the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    opened = ObjectFile(cast(Any, None), "inputs/x.jpg", cast(Any, Answer(pause_seconds)))
    return await opened.read(opened.size), loop.time() - began


def test_slow_download_is_not_cut() -> None:
    """It takes many times as long as one pause may, and ends well."""
    data, seconds = run_virtually(downloaded(0.9 * ANSWER_SECONDS), VirtualLoop())
    assert data == PIECE * PIECES
    assert seconds > 10 * ANSWER_SECONDS


def test_download_with_a_long_pause_is_unavailable() -> None:
    """A storage that sends nothing more does not hold its reader."""
    with pytest.raises(Unavailable):
        run_virtually(downloaded(1.1 * ANSWER_SECONDS), VirtualLoop())


@pytest.mark.parametrize("url", ["s3://bucket/x", "az://bucket/x?account=account"])
def test_client_bounds_pauses_and_not_downloads(url: str) -> None:
    """The client's own time-outs cut no download that the reader still waits for."""
    options: Any = connect(parse_storage_url(url), {}).client_options
    assert (options["read_timeout"], options["timeout"]) == ("1m", "1day")
    assert ANSWER_SECONDS < SILENT_SECONDS == 60
