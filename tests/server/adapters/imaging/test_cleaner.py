"""Whatever comes in, what goes out is upright, small enough, sRGB, and nothing but
pixels.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import logging
import random
import struct
import warnings
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageCms, ImageDraw, PngImagePlugin
from PIL.JpegImagePlugin import get_sampling

from server.adapters.imaging.cleaner import MAX_JPEG_SCANS, clean
from server.adapters.imaging.pool import ACCEPTED, Imaging
from server.adapters.imaging.sample_photos import CORNERS, SECRETS, SIZES, XMP, metadata, person
from server.domain.images import CleanImage, ImageFormat, Limits
from tryon.protocol.errors import TryOnError

LIMITS = Limits()


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def cleaned(data: bytes, limits: Limits = LIMITS) -> CleanImage:
    return clean(io.BytesIO(data), limits)


def refusal(data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(TryOnError) as caught:
        cleaned(data, limits)
    return caught.value.code


def opened(image: CleanImage) -> Image.Image:
    picture = Image.open(io.BytesIO(image.data))
    picture.load()
    return picture


def jpeg_segments(data: bytes) -> list[int]:
    """Marker codes up to the first scan, and the number of bytes after the end of the
    image as the last item.
    """
    found, at = [], 2
    while data[at + 1] != 0xDA:
        found.append(data[at + 1])
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return [*found, len(data) - data.index(b"\xff\xd9", at) - 2]


def chunks(data: bytes, *, start: int, big_endian: bool) -> list[bytes]:
    """Names of the chunks of a PNG or WebP file."""
    found, at = [], start
    while at < len(data):
        if big_endian:
            length, name = struct.unpack_from(">I4s", data, at)
            at += 12 + length
        else:
            name, length = struct.unpack_from("<4sI", data, at)
            at += 8 + length + length % 2
        found.append(name)
    return found


def assert_nothing_but_pixels(image: CleanImage) -> None:
    for secret in SECRETS:
        assert secret not in image.data
    match image.format:
        case ImageFormat.JPEG:
            segments = jpeg_segments(image.data)
            assert set(segments[:-1]) <= {0xE0, 0xDB, 0xC0, 0xC4}  # JFIF, tables, baseline frame
            assert segments[-1] == 0
        case ImageFormat.PNG:
            assert set(chunks(image.data, start=8, big_endian=True)) == {b"IHDR", b"IDAT", b"IEND"}
        case _:
            assert set(chunks(image.data, start=12, big_endian=False)) <= {b"VP8 ", b"VP8X", b"ALPH"}


def corner(picture: Image.Image, name: str) -> tuple[int, ...]:
    margin = min(picture.size) // 20
    x = margin if name.endswith("left") else picture.width - 1 - margin
    y = margin if name.startswith("top") else picture.height - 1 - margin
    value = picture.convert("RGB").getpixel((x, y))
    assert isinstance(value, tuple)
    return tuple(int(band) for band in value)


def near(a: tuple[int, ...], b: tuple[int, ...], tolerance: int = 12) -> bool:
    return all(abs(left - right) <= tolerance for left, right in zip(a, b, strict=True))


def assert_upright(picture: Image.Image) -> None:
    for name, colour in CORNERS.items():
        assert near(corner(picture, name), colour, 40), name  # small corners take on some of what is beside them


@pytest.mark.parametrize("name", sorted(SIZES))
def test_real_photos_become_upright_and_lose_everything_but_their_pixels(photos: Path, name: str) -> None:
    data = (photos / name).read_bytes()
    assert any(secret in data for secret in SECRETS)
    image = cleaned(data)
    picture = opened(image)
    assert picture.size == (image.width, image.height) == SIZES[name]
    assert image.extension == name.rpartition(".")[2]
    assert_nothing_but_pixels(image)
    if name != "garment.png":
        assert_upright(picture)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_every_orientation_is_applied(format: str, orientation: int) -> None:
    if format == "AVIF" and ImageFormat.AVIF not in ACCEPTED:
        pytest.skip("no AVIF decoder here")
    upright = person((120, 160))
    camera = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    held = upright.transpose(camera) if camera is not None else upright
    image = cleaned(encode(held, format, quality=95, exif=metadata(orientation)))
    assert (image.width, image.height) == (120, 160)
    assert_upright(opened(image))
    assert_nothing_but_pixels(image)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_does_not_exist_changes_nothing(value: int) -> None:
    assert_upright(opened(cleaned(encode(person((200, 200)), "JPEG", quality=95, exif=metadata(value)))))


def test_a_picture_with_broken_exif_is_taken_as_it_is() -> None:
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0" + bytes(range(256))):
        data = encode(person((200, 200)), "JPEG", quality=95, exif=exif)
        with warnings.catch_warnings(record=True) as leaked:
            warnings.simplefilter("always")
            assert_upright(opened(cleaned(data)))
        assert leaked == []


def test_jpeg_keeps_full_colour_resolution_only_if_it_has_it() -> None:
    for given, kept in ((0, 0), (1, 2), (2, 2)):
        picture = opened(cleaned(encode(person((160, 160)), "JPEG", subsampling=given)))
        assert get_sampling(picture) == kept


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparency_stays(format: str, photos: Path) -> None:
    garment = Image.open(photos / "garment.png")
    image = cleaned(encode(garment, format, lossless=True))
    assert image.format is ImageFormat[format]
    alpha = opened(image).getchannel("A")
    assert ImageChops.difference(alpha, garment.getchannel("A")).getextrema() == (0, 0)


def grey_16(transparent: int | None = None) -> bytes:
    ramp = Image.frombytes("I;16", (256, 64), b"".join(struct.pack("<H", x * 257) for x in range(256)) * 64)
    return (
        encode(ramp, "PNG")
        if transparent is None
        else _with_chunk(encode(ramp, "PNG"), b"tRNS", struct.pack(">H", transparent))
    )


def _with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    """Inserted right after the header chunk."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return png[:33] + chunk + png[33:]


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    picture = opened(cleaned(grey_16()))
    assert picture.mode == "RGB"
    assert [picture.getpixel((x, 0)) for x in (0, 100, 255)] == [(0, 0, 0), (100, 100, 100), (255, 255, 255)]


def test_16_bit_grey_with_a_transparent_value_is_transparent_there() -> None:
    picture = opened(cleaned(grey_16(transparent=0)))
    assert picture.mode == "RGBA"
    assert [picture.getpixel((x, 0)) for x in (0, 100, 255)] == [
        (0, 0, 0, 0),
        (100, 100, 100, 255),
        (255, 255, 255, 255),
    ]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_kind_of_png_becomes_rgb_or_rgba(mode: str) -> None:
    source = person((100, 100)).convert(mode)
    picture = opened(cleaned(encode(source, "PNG")))
    assert picture.mode == ("RGBA" if "A" in mode else "RGB")
    assert near(corner(picture, "top_left"), corner(source.convert("RGBA"), "top_left"), 2)


def test_a_palette_with_transparency_becomes_rgba() -> None:
    source = person((100, 100)).quantize(16)
    for transparency in (0, bytes([0, 128, 255])):
        picture = opened(cleaned(encode(source, "PNG", transparency=transparency)))
        assert picture.mode == "RGBA"
        alpha = picture.getchannel("A").getextrema()
        assert alpha[0] == 0


def test_a_transparent_colour_becomes_alpha() -> None:
    for mode, colour in (("L", 0), ("RGB", (255, 0, 0))):
        source = Image.new(mode, (80, 80), colour)
        picture = opened(cleaned(encode(source, "PNG", transparency=colour)))
        assert picture.getchannel("A").getextrema() == (0, 0)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_kinds_of_jpeg_become_rgb_and_look_the_same(mode: str) -> None:
    source = person((100, 100)).convert(mode)
    picture = opened(cleaned(encode(source, "JPEG", quality=95)))
    assert picture.mode == "RGB"
    assert near(corner(picture, "top_left"), corner(source, "top_left"))


def wide_profile(primaries: tuple[tuple[float, float, float], ...] | None = None) -> bytes:
    """A matrix profile of Display P3 (D50-adapted primaries, gamma 2.2), as phones
    embed one.
    """
    columns = primaries or ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 11) + b"Display P3\0" + bytes(4 + 4 + 2 + 1 + 67),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642) + fixed(1.0) + fixed(0.8249),
        b"rXYZ": b"XYZ " + bytes(4) + b"".join(map(fixed, columns[0])),
        b"gXYZ": b"XYZ " + bytes(4) + b"".join(map(fixed, columns[1])),
        b"bXYZ": b"XYZ " + bytes(4) + b"".join(map(fixed, columns[2])),
        **{name: b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) for name in (b"rTRC", b"gTRC", b"bTRC")},
    }
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(content))
        body += content
    header = struct.pack(
        ">I4sI4s4s4s12s4s4sIIIIIIiii4s44s",
        128 + len(table) + len(body), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp", b"APPL",
        0, 0, 0, 0, 0, 0, 63190, 65536, 54061, b"test", bytes(44),
    )  # fmt: skip
    return header + table + body


@pytest.mark.parametrize(("format", "mode"), [("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGBA")])
def test_a_wide_gamut_photo_becomes_srgb(format: str, mode: str) -> None:
    """By hand:

    (200, 60, 60), gamma 2.2, times the matrix from Display P3 to sRGB, in sRGB's curve:
    (219, 37, 49).
    """
    source = Image.new(mode, (80, 80), (200, 60, 60, 77)[: len(mode)])
    image = cleaned(encode(source, format, icc_profile=wide_profile(), quality=95))
    pixel = opened(image).getpixel((40, 40))
    assert isinstance(pixel, tuple)
    assert near(pixel[:3], (219, 37, 49), 3)
    assert pixel[3:] == (77,) * (len(mode) - 3)
    assert_nothing_but_pixels(image)


def test_an_srgb_profile_changes_no_pixel() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = person((100, 100))
    picture = opened(cleaned(encode(source, "PNG", icc_profile=profile)))
    assert ImageChops.difference(picture, source).getbbox() is None


@pytest.mark.parametrize("profile", [b"no profile", wide_profile()[:200], wide_profile().replace(b"RGB ", b"CMYK", 1)])
def test_a_broken_or_foreign_profile_is_ignored(profile: bytes) -> None:
    assert_upright(opened(cleaned(encode(person((200, 200)), "JPEG", quality=95, icc_profile=profile))))


def test_only_the_first_frame_of_an_animation_is_kept() -> None:
    first, second = person((100, 120)), Image.new("RGB", (100, 120), "white")
    for format in ("PNG", "WEBP", "MPO"):
        data = encode(first, format, save_all=True, append_images=[second], duration=100)
        image = cleaned(data)
        assert getattr(opened(image), "n_frames", 1) == 1
        assert_upright(opened(image))
        assert_nothing_but_pixels(image)


def test_text_in_a_png_is_gone_wherever_it_stands() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", SECRETS[0].decode())
    text.add_text("Author", SECRETS[1].decode(), zip=True)
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    data = encode(person((100, 100)), "PNG", pnginfo=text, dpi=(72, 72))
    late = data[:-12] + _with_chunk(bytes(33), b"tEXt", b"Comment\0" + SECRETS[0])[33:] + data[-12:]
    assert_nothing_but_pixels(cleaned(late))


def test_metadata_reaches_no_log_at_any_level(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for name in SIZES:
            cleaned((photos / name).read_bytes())
    assert caplog.records == []


def test_what_hides_behind_the_picture_is_gone() -> None:
    for format in ("JPEG", "PNG", "WEBP"):
        image = cleaned(encode(person((100, 100)), format) + b"<?php " + SECRETS[0])
        assert_nothing_but_pixels(image)


@pytest.mark.skipif(ImageFormat.HEIC not in ACCEPTED, reason="the extra heif is not installed")
def test_heic_is_stored_as_jpeg() -> None:
    image = cleaned(encode(person((120, 160)), "HEIF", quality=90, exif=metadata(1)))
    assert image.format is ImageFormat.JPEG
    assert_upright(opened(image))
    assert_nothing_but_pixels(image)


@pytest.mark.skipif(ImageFormat.AVIF not in ACCEPTED, reason="this Pillow has no AVIF decoder")
def test_avif_is_stored_as_jpeg_or_with_transparency_as_png(photos: Path) -> None:
    assert cleaned(encode(person((100, 100)), "AVIF")).format is ImageFormat.JPEG
    image = cleaned(encode(Image.open(photos / "garment.png"), "AVIF"))
    assert image.format is ImageFormat.PNG
    assert opened(image).mode == "RGBA"
    assert_nothing_but_pixels(image)


def test_a_picture_too_busy_for_webp_is_stored_as_jpeg() -> None:
    """libwebp gives up ("encoding error 6") when the modes of all macroblocks need more
    than 512 KiB.
    """
    noise = Image.effect_noise((4000, 4000), 127)
    busy = Image.merge("RGB", (noise, noise.transpose(Image.Transpose.ROTATE_90), noise))
    image = cleaned(encode(busy, "WEBP", quality=30, method=0))
    assert (image.format, image.width) == (ImageFormat.JPEG, 4000)


# What is refused


def png_header(width: int, height: int, *, depth: int = 8, colour: int = 6) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )


def test_a_bomb_is_refused_by_its_header_alone() -> None:
    """There is not one pixel in these files: whoever decodes first finds them
    unreadable.
    """
    start = png_header(20_000, 20_000) + b"\0\0\0\x08IDAT"
    assert refusal(start) == "too_many_pixels"
    assert refusal(png_header(2**31 - 1, 2**31 - 1) + start[33:]) == "too_many_pixels"
    assert refusal(png_header(9000, 100) + start[33:]) == "image_too_large"
    assert refusal(png_header(100, 63) + start[33:]) == "image_too_small"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_the_size_limits_hold_for_every_format(format: str) -> None:
    limits = Limits(min_side=64, max_side=300, max_pixels=80_000)
    for size, code in (
        ((63, 100), "image_too_small"),
        ((301, 100), "image_too_large"),
        ((290, 290), "too_many_pixels"),
    ):
        assert refusal(encode(Image.new("RGB", size), format), limits) == code
    assert cleaned(encode(Image.new("RGB", (64, 300)), format), limits).height == 300


def test_a_file_that_is_too_long_is_refused_before_it_is_opened() -> None:
    assert refusal(b"\xff\xd8\xff" + bytes(1021), Limits(max_bytes=1024)) == "unreadable_image"
    assert refusal(b"\xff\xd8\xff" + bytes(1021), Limits(max_bytes=1023)) == "body_too_large"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.98])
def test_a_truncated_photo_is_refused(format: str, share: float) -> None:
    if format == "AVIF" and ImageFormat.AVIF not in ACCEPTED:
        pytest.skip("no AVIF decoder here")
    data = encode(person((400, 400)), format, quality=85)
    assert refusal(data[: int(len(data) * share)]) == "unreadable_image"


def test_a_progressive_photo_is_fine_and_refused_when_truncated() -> None:
    data = encode(person((400, 400)), "JPEG", progressive=True)
    assert cleaned(data).width == 400
    assert refusal(data[: len(data) // 2]) == "unreadable_image"


def test_other_formats_are_refused_whatever_pillow_could_read() -> None:
    picture = person((100, 100))
    for format in ("GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "PDF", "EPS", "JPEG2000"):
        assert refusal(encode(picture, format)) == "unsupported_image"
    assert refusal(b"") == "unsupported_image"
    assert refusal(b"<svg xmlns='http://www.w3.org/2000/svg' width='100' height='100'/>") == "unsupported_image"


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    data = encode(person((200, 200)), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    last = data[at:-2]

    def scans(count: int) -> bytes:
        return data[:-2] + last * (count - data.count(b"\xff\xda")) + b"\xff\xd9"

    assert cleaned(scans(MAX_JPEG_SCANS)).width == 200
    assert refusal(scans(MAX_JPEG_SCANS + 1)) == "unreadable_image"


def test_start_of_scan_codes_in_metadata_are_not_scans() -> None:
    data = encode(person((200, 200)), "JPEG", comment=b"\xff\xda" * 1000)
    assert cleaned(data).width == 200


def test_a_compressed_text_bomb_in_a_png_is_refused() -> None:
    bomb = b"Comment\0\0" + zlib.compress(bytes(50_000_000), 9)
    assert refusal(_with_chunk(encode(person((100, 100)), "PNG"), b"zTXt", bomb)) == "unreadable_image"


# Mutation


def plain(side: int) -> Image.Image:
    """Always the same bytes, unlike :func:`person` with its noise, so that a failure
    can be repeated.
    """
    bands = (Image.linear_gradient("L"), Image.radial_gradient("L"), Image.linear_gradient("L").rotate(90))
    return Image.merge("RGB", bands).resize((side, side))


SEEDS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encode(plain(112), "JPEG", exif=metadata(6), xmp=XMP, comment=b"hello"),
    "progressive": lambda: encode(plain(96), "JPEG", progressive=True, icc_profile=wide_profile()),
    "cmyk": lambda: encode(plain(80).convert("CMYK"), "JPEG"),
    "mpo": lambda: encode(plain(80), "MPO", save_all=True, append_images=[plain(80)]),
    "png": lambda: encode(plain(80).convert("RGBA"), "PNG", exif=metadata(3), icc_profile=wide_profile()),
    "palette": lambda: encode(plain(80).quantize(16), "PNG", transparency=bytes([0, 128])),
    "grey16": grey_16,
    "apng": lambda: encode(plain(80), "PNG", save_all=True, append_images=[Image.new("RGB", (80, 80))]),
    "webp": lambda: encode(plain(80), "WEBP", exif=metadata(8), xmp=XMP),
    "webp_lossless": lambda: encode(plain(80).convert("RGBA"), "WEBP", lossless=True),
    "webp_animated": lambda: encode(plain(80), "WEBP", save_all=True, append_images=[Image.new("RGB", (80, 80))]),
    "avif": lambda: encode(plain(80), "AVIF", exif=metadata(6)),
}
if ImageFormat.HEIC in ACCEPTED:
    SEEDS["heic"] = lambda: encode(plain(80), "HEIF", exif=metadata(6))
MUTATIONS = 170


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Few bytes changed, mostly near the beginning where the structure is; or a piece
    cut, doubled or moved.
    """
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        at = chance.randrange(min(len(changed), chance.choice((64, 512, len(changed)))))
        match chance.randrange(8):
            case 0 | 1 | 2:
                changed[at] = chance.randrange(256)
            case 3:
                changed[at] ^= 1 << chance.randrange(8)
            case 4:
                changed[at : at + 4] = chance.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1")
                )
            case 5:
                del changed[at : at + chance.randrange(1, 64)]
            case 6:
                changed[at:at] = changed[at : at + chance.randrange(1, 64)]
            case _:
                del changed[max(at, 40) :]
    if data[:4] == b"\x89PNG" and chance.random() < 0.5:
        return with_right_checksums(bytes(changed))
    return bytes(changed)


def with_right_checksums(png: bytes) -> bytes:
    """So that mutations get past the CRC and into the chunks' own parsers."""
    out, at = png[:8], 8
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4])
        body = png[at + 4 : at + 8 + length]
        out += png[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return out + png[at:]


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_images_raise_only_domain_errors(seed: str) -> None:
    if seed == "avif" and ImageFormat.AVIF not in ACCEPTED:
        pytest.skip("no AVIF decoder here")
    original = SEEDS[seed]()
    assert cleaned(original).width
    chance = random.Random(f"{seed}-1")
    limits = Limits(max_pixels=1_000_000)
    outcomes = set()
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        for _ in range(MUTATIONS):
            try:
                image = cleaned(mutate(original, chance), limits)
                outcomes.add("fine")
                assert_nothing_but_pixels(image)
            except TryOnError as error:
                outcomes.add(error.code)
    assert leaked == []
    assert "unreadable_image" in outcomes
    assert outcomes <= {
        "fine", "unreadable_image", "unsupported_image", "too_many_pixels", "image_too_large", "image_too_small"
    }  # fmt: skip


# In other processes; test_imaging_pool has the rest


@pytest.fixture
async def imaging() -> AsyncIterator[Imaging]:
    imaging = Imaging(LIMITS)
    yield imaging
    await imaging.close()


async def test_many_photos_are_cleaned_at_once(imaging: Imaging, photos: Path) -> None:
    names = list(itertools.islice(itertools.cycle(("photo.jpg", "garment.png", "photo.webp")), 9))
    images = await asyncio.gather(*(imaging.clean(io.BytesIO((photos / name).read_bytes())) for name in names))
    assert [(image.width, image.height) for image in images] == [SIZES[name] for name in names]


async def test_a_refusal_reaches_the_caller_as_itself(imaging: Imaging) -> None:
    with pytest.raises(TryOnError) as caught:
        await imaging.clean(io.BytesIO(b"GIF89a"))
    assert caught.value.code == "unsupported_image"


async def test_the_source_is_read_from_its_beginning(imaging: Imaging, photos: Path) -> None:
    source = io.BytesIO((photos / "photo.webp").read_bytes())
    source.read(100)
    assert (await imaging.clean(source)).format is ImageFormat.WEBP


async def test_closing_waits_for_running_work(imaging: Imaging, photos: Path) -> None:
    await imaging.clean(io.BytesIO((photos / "photo.webp").read_bytes()))
    work = asyncio.ensure_future(imaging.clean(io.BytesIO((photos / "photo.jpg").read_bytes())))
    await asyncio.sleep(0)
    await imaging.close()
    assert (await work).width == 900


def test_no_draw_is_left_out() -> None:
    """What is painted comes out as it was painted, not merely with the right corners."""
    source = person((256, 256))
    ImageDraw.Draw(source).text((20, 120), "try on", fill="white")
    picture = opened(cleaned(encode(source, "PNG")))
    assert ImageChops.difference(picture, source).getbbox() is None
