"""The plug: what may be plugged in, and what the mock makes."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from server.config.settings import Config, ConfigError
from testkit.photos import CORNERS
from worker.processors import Job, Output, Processor, ProcessorError, find, make
from worker.processors.mock import LONG_SIDE, STAGES, MockProcessor, compose

MakeMock = Callable[..., MockProcessor]


class Empty:
    def __init__(self, config: Config) -> None:
        pass


class Upside:
    """A processor of one's own."""

    name = "upside"

    def __init__(self, config: Config) -> None:
        self.jobs = config.worker_jobs

    async def run(self, job: Job, report: Any) -> Output:
        return Output(job.image[::-1], "jpg")


class Broken:
    def __init__(self, config: Config) -> None:
        raise OSError("no GPU\nhere")


def load(name: str, config: Config) -> Processor:
    return make(find(name), replace(config, processor=name))


def test_the_mock_is_built_in(tmp_path: Path) -> None:
    assert isinstance(load("mock", Config(data_dir=tmp_path)), MockProcessor)


def test_a_class_of_ones_own_is_plugged_in_by_its_path() -> None:
    processor = load(f"{__name__}:Upside", Config(worker_jobs=7))
    assert processor.name == "upside"
    assert processor.jobs == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("magic", "no processor 'magic'; it is mock"),
        ("no.such.module:Thing", "ModuleNotFoundError"),
        (f"{__name__}:Missing", "AttributeError"),
        (f"{__name__}:Broken", "no GPU here"),
        (f"{__name__}:Empty", "needs a name and an async run"),
    ],
)
def test_what_cannot_be_plugged_in_is_told_in_one_line(name: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(name, Config())
    assert "TRYON_PROCESSOR" in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


# -- the mock's picture ----------------------------------------------------------------


def picture(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    return image.convert("RGB")


def colour(image: Image.Image, x: float, y: float) -> tuple[int, ...]:
    """At a place given in parts of the width and height."""
    found = image.getpixel((round(x * (image.width - 1)), round(y * (image.height - 1))))
    assert isinstance(found, tuple)
    return tuple(int(part) for part in found)


def close(one: tuple[int, ...], other: tuple[int, ...], *, within: int = 30) -> bool:
    return all(abs(a - b) <= within for a, b in zip(one, other, strict=True))


def test_the_output_shows_the_photo_the_garment_and_a_ribbon(photos: Path) -> None:
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
    assert compose((photos / "photo.webp").read_bytes(), None) != compose((photos / "photo.jpg").read_bytes(), None)


@pytest.mark.parametrize("size", [(64, 64), (64, 8192), (8192, 64), (640, 480)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "RGBA", "I;16", "1"])
def test_every_accepted_size_and_mode_makes_a_picture(size: tuple[int, int], mode: str) -> None:
    file = io.BytesIO()
    image = Image.effect_noise(size, 80)
    (image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)).save(file, "PNG")
    made = picture(compose(file.getvalue(), file.getvalue()))
    assert 512 <= max(made.size) <= LONG_SIDE
    assert max(made.size) <= 2.01 * min(made.size)


# -- the mock's run --------------------------------------------------------------------


@pytest.fixture
def job(photos: Path) -> Job:
    return Job("s1", 1, (photos / "photo.webp").read_bytes(), "image/webp")


@pytest.fixture
def mock() -> MakeMock:
    return lambda **settings: MockProcessor(Config(**({"mock_seconds": 0.0} | settings)))


async def quiet(progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
    pass


def failures(processor: MockProcessor, runs: int) -> list[bool]:
    return [processor._fate(number) is not None for number in range(1, runs + 1)]


async def test_the_stages_come_in_order_with_a_falling_eta(mock: MakeMock, job: Job) -> None:
    told: list[tuple[float | None, str | None, float | None]] = []

    async def report(progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
        told.append((progress, stage, eta_seconds))

    began = time.monotonic()
    output = await mock(mock_seconds=1.5, mock_failure_rate=0).run(job, report)

    assert 1.5 <= time.monotonic() - began < 5
    assert output.extension == "jpg"
    assert list(dict.fromkeys(stage for _, stage, _ in told)) == [name for _, name in STAGES]
    assert [progress for progress, _, _ in told] == sorted(progress or 0 for progress, _, _ in told)
    assert told[-1][0] == 1.0
    etas = [eta or 0 for _, _, eta in told]
    assert etas == sorted(etas, reverse=True)
    assert etas[0] == pytest.approx(1.5, abs=0.1)


async def test_the_picture_is_made_beside_the_event_loop(mock: MakeMock, photos: Path) -> None:
    longest = 0.0
    running = asyncio.create_task(
        mock(mock_failure_rate=0).run(Job("s1", 1, (photos / "large.jpg").read_bytes(), "image/jpeg"), quiet)
    )
    while not running.done():
        before = time.monotonic()
        await asyncio.sleep(0)
        longest = max(longest, time.monotonic() - before)
    assert (await running).data
    assert longest < 0.1


async def test_it_always_or_never_fails_when_told_to(mock: MakeMock, job: Job) -> None:
    with pytest.raises(ProcessorError) as error:
        await mock(mock_failure_rate=1).run(job, quiet)
    assert (error.value.code, error.value.requeue) == ("mock_failure", False)
    assert (await mock(mock_failure_rate=0).run(job, quiet)).data


def test_a_seed_repeats_the_failures_run_by_run(mock: MakeMock) -> None:
    first = failures(mock(mock_seed=7), 400)
    assert first == failures(mock(mock_seed=7), 400)
    assert first != failures(mock(mock_seed=8), 400)
    assert 20 <= sum(first) <= 60  # a tenth, though it is the same photo each time


async def test_a_cancelled_run_ends_at_once(mock: MakeMock, job: Job) -> None:
    running = asyncio.create_task(mock(mock_seconds=60, mock_failure_rate=0).run(job, quiet))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 2)
