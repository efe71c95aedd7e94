"""Photos are refused before they are sent as the server would refuse them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from server.cli.checking import check, judge_upload, parts_of, pixels_of
from server.cli.connecting import Refused
from server.config.settings import Config
from server.sessions.processors import ProcessorDirectory
from server.system.clock import SystemClock
from testkit.photos import photo, png_chunk
from testkit.running import Web, running_web
from tryon.client.api import AsyncTryOn
from tryon.client.problems import Problem
from tryon.processor import Info, Role
from tryon.processor.description import describe

INFO = Info(
    name="mock",
    roles=(
        Role(name="person", required=True, max_pixels=250 * 250),
        Role(name="garment", count=2, formats=("image/png", "image/webp"), max_bytes=20_000),
    ),
    params_schema={"type": "object", "properties": {"size": {"enum": ["S", "M"]}}, "additionalProperties": False},
)


def gif() -> bytes:
    """Return a picture that is not accepted, and has a name."""
    file = io.BytesIO()
    Image.new("P", (80, 80)).save(file, "GIF")
    return file.getvalue()


FILES = {
    "me.jpg": photo(),
    "notes.txt": b"This is no picture at all, it is a text.",
    "old.gif": gif(),
    "empty.jpg": b"",
    "heavy.jpg": photo(200, 200, 95, 1.0),
    "many.jpg": photo(280, 280, 5, 0.0),
    "wide.jpg": photo(500, 80, 5, 0.0),
    "tiny.jpg": photo(20, 20),
    "shirt.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "big.png": b"\x89PNG\r\n\x1a\n" + bytes(30_000),
}

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"image": "notes.txt"}, "unsupported_image image"),
    "format with a name": ({"image": "me.jpg", "garment": "old.gif"}, "unsupported_image garment"),
    "format of a role": ({"inputs": {"person": ["me.jpg"], "garment": ["me.jpg"]}}, "unsupported_image garment"),
    "bytes": ({"image": "heavy.jpg"}, "body_too_large image"),
    "bytes of a role": ({"image": "me.jpg", "garment": "big.png"}, "body_too_large garment"),
    "pixels": ({"image": "many.jpg"}, "too_many_pixels image"),
    "side": ({"image": "wide.jpg"}, "image_too_large image"),
    "small side": ({"image": "tiny.jpg"}, "image_too_small image"),
    "unknown role": ({"image": "me.jpg", "inputs": {"hat": ["me.jpg"]}}, "unknown_input hat"),
    "too many": ({"image": "me.jpg", "inputs": {"garment": ["shirt.png"] * 3}}, "unknown_input garment"),
    "no person": ({"garment": "shirt.png"}, "missing_image person"),
    "empty": ({"image": "empty.jpg"}, "missing_image image"),
    "params": ({"image": "me.jpg", "params": {"size": "XXL"}}, "bad_params params"),
    "params of another kind": ({"image": "me.jpg", "params": {"colour": 1}}, "bad_params params"),
    "large params": ({"image": "me.jpg", "params": {"size": "x" * 5000}}, "bad_params params"),
}


async def serve_info(web: Web) -> None:
    """Publish the processor of this module as that of a running worker."""
    directory = ProcessorDirectory(rows=web.database.processors, setting="mock", clock=SystemClock())
    await directory.publish("a worker", describe(INFO))


async def test_refusals_equal_those_of_the_server(config: Callable[..., Config], tmp_path: Path) -> None:
    """Code, status, detail, part and place are the same; the advice comes on top."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    strict = config(image_max_bytes=len(FILES["heavy.jpg"]) - 1, image_max_side=400, image_max_pixels=300 * 300)
    async with running_web(strict) as web, AsyncTryOn(f"http://127.0.0.1:{web.port}", trust_env=False) as tryon:
        await serve_info(web)
        limits, processor = await tryon.limits(), await tryon.processor()
        for name, (given, expected) in CASES.items():
            image, garment = (tmp_path / given[each] if each in given else None for each in ("image", "garment"))
            inputs = {role: [tmp_path / each for each in names] for role, names in given.get("inputs", {}).items()}
            with pytest.raises(Refused) as local:
                judge_upload(parts_of(image, garment, inputs), given.get("params"), processor, limits, copied=False)
            with pytest.raises(Problem) as remote:
                await tryon.upload(image, garment=garment, inputs=inputs, params=given.get("params"))
            here, there = (
                (each.code, each.status, each.detail, each.part, each.pointer, each.retryable)
                for each in (local.value, remote.value)
            )
            assert (name, *here) == (name, *there)
            assert f"{here[0]} {here[3]}" == expected
            assert local.value.advice


async def test_photo_that_fits_is_sent(config: Callable[..., Config], tmp_path: Path) -> None:
    """Neither a copied role nor a server without limits is in the way."""
    (tmp_path / "me.jpg").write_bytes(photo())
    me = [("image", tmp_path / "me.jpg")]
    async with running_web(config()) as web, AsyncTryOn(f"http://127.0.0.1:{web.port}", trust_env=False) as tryon:
        await check(tryon, me, {"anything": 1}, copied=False)
        await check(tryon, [], None, copied=True)
        async with AsyncTryOn(f"http://127.0.0.1:{web.port}/another/product", trust_env=False) as other:
            await check(other, [("image", tmp_path)], None, copied=False)


def test_pixels_are_read_from_the_header(tmp_path: Path) -> None:
    """Nothing is decoded: a cut file has a size, and one that Pillow would not open."""
    path = tmp_path / "photo"
    path.write_bytes(photo()[:2000])
    assert pixels_of(path) == (96, 128)
    header = (60_000).to_bytes(4) * 2 + b"\x08\x02\0\0\0"
    huge = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", bytes(20))
    path.write_bytes(huge)
    assert pixels_of(path) == (60_000, 60_000)
    for content in (b"\xff\xd8\xff\xe0", FILES["notes.txt"], b""):
        path.write_bytes(content)
        assert pixels_of(path) is None
