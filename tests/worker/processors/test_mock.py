"""The mock: the picture it makes, its stages and its failures."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from server.adapters.imaging.sample_photos import CORNERS
from testkit.jobs import job_of
from tryon.processor import Job, ProcessorError
from tryon.processor.conformance import ProcessorConformance, Reports
from worker.processors.mock import LONG_SIDE, STAGES, MockProcessor, compose

MakeMock = Callable[..., MockProcessor]


class TestConformance(ProcessorConformance):
    """The mock passes the checks for any processor."""

    stop_seconds = 10.0

    def make(self) -> MockProcessor:
        return MockProcessor(seconds=0, failure_rate=0)

    def make_slow(self) -> MockProcessor:
        return MockProcessor(seconds=60, failure_rate=0)


# -- the mock's picture ----------------------------------------------------------------


def picture(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    return image.convert("RGB")


def colour(image: Image.Image, x: float, y: float) -> tuple[int, ...]:
    """Return the colour at a place given in parts of the width and height."""
    found = image.getpixel((round(x * (image.width - 1)), round(y * (image.height - 1))))
    assert isinstance(found, tuple)
    return tuple(int(part) for part in found)


def close(one: tuple[int, ...], other: tuple[int, ...], *, within: int = 30) -> bool:
    return all(abs(a - b) <= within for a, b in zip(one, other, strict=True))


def test_output_shows_photo_garment_and_ribbon(photos: Path) -> None:
    """The picture is the photo, with the garment as a card and a ribbon."""
    person, garment = (photos / "photo.webp").read_bytes(), (photos / "garment.png").read_bytes()

    plain, dressed = picture(compose(person, None)), picture(compose(person, garment))

    for image in (plain, dressed):
        assert max(image.size) <= LONG_SIDE
        assert close(colour(image, 0.03, 0.03), CORNERS["top_left"])
        assert close(colour(image, 0.03, 0.97), CORNERS["bottom_left"])
        assert not close(colour(image, 0.84, 0.13), colour(picture(to_jpeg(person)), 0.84, 0.13))  # under the ribbon
    assert close(colour(plain, 0.97, 0.97), CORNERS["bottom_right"])
    assert close(colour(dressed, 0.9, 0.7), (255, 255, 255))  # the card the garment lies on
    assert close(colour(dressed, 0.8, 0.85), colour(picture(to_jpeg(garment)), 0.5, 0.5))


def to_jpeg(data: bytes) -> bytes:
    file = io.BytesIO()
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB").save(file, "JPEG", quality=90)
    return file.getvalue()


def test_two_photos_make_two_pictures(photos: Path) -> None:
    """The picture depends on the photo."""
    assert compose((photos / "photo.webp").read_bytes(), None) != compose((photos / "photo.jpg").read_bytes(), None)


@pytest.mark.parametrize("size", [(64, 64), (64, 8192), (8192, 64), (640, 480)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "RGBA", "I;16", "1"])
def test_every_accepted_image_makes_picture(size: tuple[int, int], mode: str) -> None:
    """Every size and mode that an upload may have is drawn."""
    file = io.BytesIO()
    image = Image.effect_noise(size, 80)
    (image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)).save(file, "PNG")
    made = picture(compose(file.getvalue(), file.getvalue()))
    assert 512 <= max(made.size) <= LONG_SIDE
    assert max(made.size) <= 2.01 * min(made.size)


# -- the mock's run --------------------------------------------------------------------


@pytest.fixture
def job(photos: Path) -> Job:
    return job_of((photos / "photo.webp").read_bytes(), "image/webp")


@pytest.fixture
def mock() -> MakeMock:
    return lambda **options: MockProcessor(**({"seconds": 0.0} | options))


def failures(processor: MockProcessor, runs: int) -> list[bool]:
    return [processor._fate(number) is not None for number in range(1, runs + 1)]


async def test_stages_come_in_order(mock: MakeMock, job: Job) -> None:
    """Progress rises through all stages while the expected time falls."""
    report = Reports()
    began = time.monotonic()
    output = await mock(seconds=1.5, failure_rate=0).run(job, report)

    assert 1.5 <= time.monotonic() - began < 15
    assert output.type == "image/jpeg"
    assert list(dict.fromkeys(each.stage for each in report.all)) == [name for _, name in STAGES]
    assert [each.progress for each in report.all] == sorted(each.progress or 0 for each in report.all)
    assert report.all[-1].progress == 1.0
    etas = [each.eta_seconds or 0 for each in report.all]
    assert etas == sorted(etas, reverse=True)
    assert etas[0] == pytest.approx(1.5, abs=0.1)


async def test_picture_is_made_beside_the_loop(mock: MakeMock, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing does not block the event loop, which runs in this thread."""
    threads: list[int] = []

    def noted(image: bytes, garment: bytes | None) -> bytes:
        threads.append(threading.get_ident())
        return compose(image, garment)

    monkeypatch.setattr("worker.processors.mock.compose", noted)
    assert (await mock(failure_rate=0).run(job, Reports())).data
    assert len(threads) == 1 and threading.get_ident() not in threads


async def test_failure_rate_decides_failures(mock: MakeMock, job: Job) -> None:
    """A rate of 1 fails each run, a rate of 0 none."""
    with pytest.raises(ProcessorError) as error:
        await mock(failure_rate=1).run(job, Reports())
    assert (error.value.code, error.value.requeue) == ("mock_failure", False)
    assert (await mock(failure_rate=0).run(job, Reports())).data


def test_seed_repeats_failures(mock: MakeMock) -> None:
    """The same seed fails the same runs, at the configured rate."""
    first = failures(mock(seed=7), 400)
    assert first == failures(mock(seed=7), 400)
    assert first != failures(mock(seed=8), 400)
    assert 20 <= sum(first) <= 60  # a tenth, though it is the same photo each time


async def test_cancelled_run_ends_at_once(mock: MakeMock, job: Job) -> None:
    """A cancel reaches a run that would take a minute."""
    running = asyncio.create_task(mock(seconds=60, failure_rate=0).run(job, Reports()))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 20)
