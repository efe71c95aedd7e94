"""The pictures that go to an upstream."""

from __future__ import annotations

import base64
import io
import random
from pathlib import Path

import pytest
from PIL import Image

from tryon.processor import Input, ProcessorError
from worker.processors.httpjob.pictures import Limits, decode, prepare, sniff


def noise(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), random.Random(1).randbytes(width * height * 3))


def given(folder: Path, image: Image.Image, type: str = "image/jpeg", number: int = 0) -> Input:
    """Return an input of this picture."""
    path = folder / f"{number}.{type.partition('/')[2]}"
    image.save(path, type.partition("/")[2].upper())
    return Input(
        role="garment",
        index=number,
        type=type,
        path=str(path),
        bytes=path.stat().st_size,
        width=image.width,
        height=image.height,
    )


def test_picture_within_the_limits_is_sent_as_it_is(tmp_path: Path) -> None:
    """Nothing is lost by encoding it again."""
    one = given(tmp_path, noise(60, 40))
    [picture] = prepare([one], Limits(pixels=2400, bytes=one.bytes))
    assert (picture.data, picture.type, picture.width, picture.height) == (one.read(), "image/jpeg", 60, 40)
    assert picture.data_url == "data:image/jpeg;base64," + base64.b64encode(one.read()).decode()
    assert picture.file_name == "image.jpg"


@pytest.mark.parametrize("size", [(400, 300), (30, 1000), (1000, 3)])
def test_picture_beyond_the_pixels_is_shrunk(tmp_path: Path, size: tuple[int, int]) -> None:
    """Never above the limit, in the same shape."""
    [picture] = prepare([given(tmp_path, noise(*size))], Limits(pixels=2000))
    image = Image.open(io.BytesIO(picture.data))
    assert image.size == (picture.width, picture.height)
    assert 0 < image.width * image.height <= 2000
    assert image.width == pytest.approx(size[0] * (2000 / (size[0] * size[1])) ** 0.5, abs=1.5)


def test_picture_beyond_the_bytes_is_shrunk(tmp_path: Path) -> None:
    """A data URL has a limit in many places."""
    one = given(tmp_path, noise(900, 900), "image/png")
    [picture] = prepare([one], Limits(bytes=300_000))
    assert len(picture.data) <= 300_000
    with pytest.raises(ProcessorError, match="processor_error"):
        prepare([one], Limits(bytes=100))


def test_picture_of_a_type_that_is_not_taken_is_converted(tmp_path: Path) -> None:
    """What is clear becomes white where the type knows no alpha."""
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    one = given(tmp_path, image, "image/png")
    [jpeg] = prepare([one], Limits(types=("image/jpeg",)))
    assert jpeg.type == "image/jpeg"
    assert Image.open(io.BytesIO(jpeg.data)).getpixel((5, 5)) == (255, 255, 255)
    [webp] = prepare([one], Limits(types=("image/jpeg", "image/webp")))
    assert (webp.type, Image.open(io.BytesIO(webp.data)).mode) == ("image/webp", "RGBA")


def test_garments_are_merged_into_one_picture(tmp_path: Path) -> None:
    """Each is there once, on white, and none covers another."""
    colours = ("red", "blue", "lime")
    inputs = [given(tmp_path, Image.new("RGB", (100, 150), colour), "image/png", n) for n, colour in enumerate(colours)]
    [picture] = prepare(inputs, Limits(types=("image/png",)), merge=True)
    image = Image.open(io.BytesIO(picture.data)).convert("RGB")
    counts = {colour: count for count, colour in image.getcolors(image.width * image.height) or ()}
    assert [counts[colour] for colour in ((255, 0, 0), (0, 0, 255), (0, 255, 0))] == [15_000] * 3
    assert image.getpixel((image.width - 1, image.height - 1)) == (255, 255, 255)
    [small] = prepare(inputs, Limits(pixels=10_000), merge=True)
    assert small.width * small.height <= 10_000
    [alone] = prepare(inputs[:1], Limits(), merge=True)
    assert alone.data == inputs[0].read()


def test_type_of_a_file_is_what_its_bytes_say() -> None:
    """Whatever the upstream calls it."""
    for type in ("image/jpeg", "image/png", "image/webp"):
        file = io.BytesIO()
        noise(4, 4).save(file, type.partition("/")[2].upper())
        assert sniff(file.getvalue()) == type
    assert sniff(b"\0\0\0\x18ftypmp42" + bytes(8)) == "video/mp4"
    assert sniff(b"\x1aE\xdf\xa3" + bytes(8)) == "video/webm"
    for other in (b"", b"GIF89a" + bytes(8), b"<html>", b"\0\0\0\x18ftypavif", b"RIFF\0\0\0\0WAVE", b"%PDF-1.7"):
        assert sniff(other) is None


def test_result_inside_of_the_answer_is_decoded_within_bounds() -> None:
    """A data URL, or bare base64."""
    text = base64.b64encode(b"picture").decode()
    assert decode(text, 100) == b"picture"
    assert decode(f"data:image/png;base64,{text}", 100) == b"picture"
    for other in ("data:image/png,plain", "data:image/png;base64", "no base64!", "https://a.example/x"):
        assert decode(other, 100) is None
    with pytest.raises(ProcessorError):
        decode("A" * 4000, 100)
