"""A session completes with files that are what they claim to be, or fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from server.adapters.imaging.pool import Imaging
from server.config.settings import Config
from server.domain.outputs import output_limits
from server.services import open_services
from testkit import films
from testkit.originals import plain
from testkit.photos import encoded
from tests.worker.conftest import Feed
from tests.worker.scripted import Scripted
from tryon.processor import Job, Output, Report, Result
from tryon.protocol.states import Status
from worker.chain import Chain
from worker.tasks import SessionRunner

MakeConfig = Callable[..., Config]
SECRET = b"taken at home, Elm Street 5"


@pytest.fixture
async def feed(config: MakeConfig, photos: Path) -> AsyncIterator[Feed]:
    async with open_services(config()) as services:
        yield Feed(services, photos)


@pytest.fixture
async def imaging() -> AsyncIterator[Imaging]:
    pool = Imaging(output_limits(4_000_000), keep=0)
    try:
        yield pool
    finally:
        await pool.close()


async def run(feed: Feed, imaging: Imaging, *outputs: Output) -> str:
    """Run a session to its end with a processor that returns these; return its id."""

    async def play(job: Job, report: Report) -> Result:
        return outputs

    session = await feed.submit()
    await SessionRunner(feed.services, Chain([Scripted(play)]), "w1", imaging).run(session.id)
    return session.id


@pytest.mark.parametrize(
    "output",
    [
        Output(b"no picture...", "image/jpeg"),
        Output(encoded(plain(64), "PNG"), "image/jpeg"),
        Output(encoded(plain(64), "WEBP")[:-40], "image/webp"),
        Output(films.mp4()[:-8], "video/mp4"),
    ],
    ids=["text", "another type", "cut off", "film cut off"],
)
async def test_session_fails_when_result_is_no_picture(feed: Feed, imaging: Imaging, output: Output) -> None:
    """Nobody is shown 13 bytes of text, and nothing of them is stored."""
    end = (await feed.story(await run(feed, imaging, output))).session
    assert (end.status, end.error_code, end.outputs) == (Status.FAILED, "processor_error", [])
    stored = [each.key for each in (await feed.services.files.list_page()).entries]
    assert stored == [file.key for file in end.inputs]


async def test_session_completes_with_verified_files(feed: Feed, imaging: Imaging) -> None:
    """Each is stored without private metadata, with its size, and marked."""
    photo, film = encoded(plain(80), "JPEG", comment=SECRET), films.mp4()
    id = await run(feed, imaging, Output(photo, "image/jpeg"), Output(film, "video/mp4", "film"))
    end = (await feed.story(id)).session
    assert [(file.role, file.type, file.width, file.height) for file in end.outputs] == [
        ("result", "image/jpeg", 80, 80),
        ("film", "video/mp4", films.WIDTH, films.HEIGHT),
    ]
    for file in end.outputs:
        data = await feed.services.files.get(file.key)
        assert b"trainedAlgorithmicMedia" in data
        assert SECRET not in data
        assert films.SECRET not in data


async def test_idle_worker_has_no_image_process(feed: Feed) -> None:
    """It starts with a run, and ends some time after the last."""
    pool = Imaging(output_limits(4_000_000), keep=0)
    assert pool.pids == []
    await run(feed, pool, Output(encoded(plain(64), "PNG"), "image/png"))
    assert len(pool.pids) == 1
    await pool.close()
