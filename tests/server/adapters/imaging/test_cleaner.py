"""Any accepted photo comes out upright, small enough, sRGB, and nothing but pixels."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageCms, ImageDraw, PngImagePlugin
from PIL.JpegImagePlugin import get_sampling

from server.adapters.imaging.pool import ACCEPTED
from server.adapters.imaging.sample_photos import SECRETS, SIZES, XMP, metadata, person
from server.domain.images import ImageFormat
from testkit.clean_photos import assert_nothing_but_pixels
from testkit.plugin import missing
from tests.server.adapters.imaging.pictures import (
    assert_upright,
    cleaned,
    corner,
    encode,
    grey_16,
    near,
    opened,
    wide_profile,
    with_chunk,
)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_real_photo_becomes_upright_pixels(photos: Path, name: str) -> None:
    """Photos as phones take them come out upright and without metadata."""
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
    """All eight EXIF orientations come out upright, in each format."""
    if format == "AVIF" and ImageFormat.AVIF not in ACCEPTED:
        missing("an AVIF decoder")
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
def test_unknown_orientation_changes_nothing(value: int) -> None:
    """An orientation outside 1 to 8 is taken as upright."""
    assert_upright(opened(cleaned(encode(person((200, 200)), "JPEG", quality=95, exif=metadata(value)))))


def test_broken_exif_is_ignored() -> None:
    """A picture with broken EXIF is taken as it is: its pixels are fine."""
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0" + bytes(range(256))):
        data = encode(person((200, 200)), "JPEG", quality=95, exif=exif)
        with warnings.catch_warnings(record=True) as leaked:
            warnings.simplefilter("always")
            assert_upright(opened(cleaned(data)))
        assert leaked == []


def test_jpeg_keeps_its_colour_resolution() -> None:
    """4:4:4, 4:2:2 and 4:2:0 stay; 4:2:2 on its side becomes 4:4:4."""
    for given, turned, kept in ((0, 1, 0), (1, 1, 1), (2, 1, 2), (0, 6, 0), (1, 6, 0), (2, 6, 2), (1, 3, 1)):
        picture = opened(cleaned(encode(person((160, 160)), "JPEG", subsampling=given, exif=metadata(turned))))
        assert get_sampling(picture) == kept


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparency_stays(format: str, photos: Path) -> None:
    """A transparent picture is stored with its alpha channel."""
    garment = Image.open(photos / "garment.png")
    image = cleaned(encode(garment, format, lossless=True))
    assert image.format is ImageFormat[format]
    alpha = opened(image).getchannel("A")
    assert ImageChops.difference(alpha, garment.getchannel("A")).getextrema() == (0, 0)


def test_16_bit_grey_is_scaled() -> None:
    """A grey picture of 16 bits keeps its middle tones."""
    picture = opened(cleaned(grey_16()))
    assert picture.mode == "RGB"
    assert [picture.getpixel((x, 0)) for x in (0, 100, 255)] == [(0, 0, 0), (100, 100, 100), (255, 255, 255)]


def test_16_bit_grey_keeps_transparency() -> None:
    """The transparent value of a 16-bit grey picture becomes alpha."""
    picture = opened(cleaned(grey_16(transparent=0)))
    assert picture.mode == "RGBA"
    assert [picture.getpixel((x, 0)) for x in (0, 100, 255)] == [
        (0, 0, 0, 0),
        (100, 100, 100, 255),
        (255, 255, 255, 255),
    ]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_becomes_rgb_or_rgba(mode: str) -> None:
    """Every mode of a PNG comes out with eight bits a channel."""
    source = person((100, 100)).convert(mode)
    picture = opened(cleaned(encode(source, "PNG")))
    assert picture.mode == ("RGBA" if "A" in mode else "RGB")
    assert near(corner(picture, "top_left"), corner(source.convert("RGBA"), "top_left"), 2)


def test_transparent_palette_becomes_rgba() -> None:
    """Transparent entries of a palette become alpha."""
    source = person((100, 100)).quantize(16)
    for transparency in (0, bytes([0, 128, 255])):
        picture = opened(cleaned(encode(source, "PNG", transparency=transparency)))
        assert picture.mode == "RGBA"
        alpha = picture.getchannel("A").getextrema()
        assert alpha[0] == 0


def test_transparent_colour_becomes_alpha() -> None:
    """The transparent colour of an RGB picture becomes alpha."""
    for mode, colour in (("L", 0), ("RGB", (255, 0, 0))):
        source = Image.new(mode, (80, 80), colour)
        picture = opened(cleaned(encode(source, "PNG", transparency=colour)))
        assert picture.getchannel("A").getextrema() == (0, 0)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_jpegs_become_rgb(mode: str) -> None:
    """Grey and CMYK JPEGs become RGB and look the same."""
    source = person((100, 100)).convert(mode)
    picture = opened(cleaned(encode(source, "JPEG", quality=95)))
    assert picture.mode == "RGB"
    assert near(corner(picture, "top_left"), corner(source, "top_left"))


@pytest.mark.parametrize(("format", "mode"), [("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGBA")])
def test_wide_gamut_photo_becomes_srgb(format: str, mode: str) -> None:
    """Compare with colours computed by hand.

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


def test_srgb_profile_changes_no_pixel() -> None:
    """A photo that is sRGB already is not converted."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = person((100, 100))
    picture = opened(cleaned(encode(source, "PNG", icc_profile=profile)))
    assert ImageChops.difference(picture, source).getbbox() is None


@pytest.mark.parametrize("profile", [b"no profile", wide_profile()[:200], wide_profile().replace(b"RGB ", b"CMYK", 1)])
def test_invalid_profile_is_ignored(profile: bytes) -> None:
    """A profile that is broken or of another kind of pixel is ignored."""
    assert_upright(opened(cleaned(encode(person((200, 200)), "JPEG", quality=95, icc_profile=profile))))


def test_animation_keeps_first_frame() -> None:
    """An animation becomes its first frame."""
    first, second = person((100, 120)), Image.new("RGB", (100, 120), "white")
    for format in ("PNG", "WEBP", "MPO"):
        data = encode(first, format, save_all=True, append_images=[second], duration=100)
        image = cleaned(data)
        assert getattr(opened(image), "n_frames", 1) == 1
        assert_upright(opened(image))
        assert_nothing_but_pixels(image)


def test_text_in_png_is_removed() -> None:
    """Text before and behind the pixels is removed."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", SECRETS[0].decode())
    text.add_text("Author", SECRETS[1].decode(), zip=True)
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    data = encode(person((100, 100)), "PNG", pnginfo=text, dpi=(72, 72))
    late = data[:-12] + with_chunk(bytes(33), b"tEXt", b"Comment\0" + SECRETS[0])[33:] + data[-12:]
    assert_nothing_but_pixels(cleaned(late))


def test_metadata_reaches_no_log(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No log line of any level has a photo's metadata."""
    with caplog.at_level(logging.DEBUG):
        for name in SIZES:
            cleaned((photos / name).read_bytes())
    assert caplog.records == []


def test_bytes_behind_picture_are_removed() -> None:
    """Bytes behind the end of the picture are removed."""
    for format in ("JPEG", "PNG", "WEBP"):
        image = cleaned(encode(person((100, 100)), format) + b"<?php " + SECRETS[0])
        assert_nothing_but_pixels(image)


@pytest.mark.skipif(ImageFormat.HEIC not in ACCEPTED, reason="the extra heif is not installed")
def test_heic_is_stored_as_jpeg() -> None:
    """A HEIC photo becomes a JPEG."""
    image = cleaned(encode(person((120, 160)), "HEIF", quality=90, exif=metadata(1)))
    assert image.format is ImageFormat.JPEG
    assert_upright(opened(image))
    assert_nothing_but_pixels(image)


@pytest.mark.skipif(ImageFormat.AVIF not in ACCEPTED, reason="this Pillow has no AVIF decoder")
def test_avif_is_stored_as_jpeg_or_png(photos: Path) -> None:
    """An AVIF photo becomes a JPEG, or a PNG if it has transparency."""
    assert cleaned(encode(person((100, 100)), "AVIF")).format is ImageFormat.JPEG
    image = cleaned(encode(Image.open(photos / "garment.png"), "AVIF"))
    assert image.format is ImageFormat.PNG
    assert opened(image).mode == "RGBA"
    assert_nothing_but_pixels(image)


def test_busy_webp_is_stored_as_jpeg() -> None:
    """A picture that libwebp cannot encode is stored as JPEG.

    libwebp gives up ("encoding error 6") when the modes of all macroblocks need more
    than its first partition holds.
    """
    noise = Image.effect_noise((4000, 4000), 127)
    busy = Image.merge("RGB", (noise, noise.transpose(Image.Transpose.ROTATE_90), noise))
    image = cleaned(encode(busy, "WEBP", quality=30, method=0))
    assert (image.format, image.width) == (ImageFormat.JPEG, 4000)


def test_painted_picture_comes_out_unchanged() -> None:
    """Every pixel comes out as it was painted, not just the corners."""
    source = person((256, 256))
    ImageDraw.Draw(source).text((20, 120), "try on", fill="white")
    picture = opened(cleaned(encode(source, "PNG")))
    assert ImageChops.difference(picture, source).getbbox() is None
