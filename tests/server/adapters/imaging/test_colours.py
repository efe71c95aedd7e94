"""What the numbers of a photo mean is honoured, whatever says it, in every mode.

The expected colours are computed by hand: the matrices are those of CSS Color 4, the
curves those of IEC 61966-2-1 and of the profiles.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from PIL import Image

from server.adapters.imaging.parts import MAX_PROFILE_BYTES
from server.adapters.imaging.pool import ACCEPTED
from server.domain.images import ImageFormat
from testkit.clean_photos import assert_nothing_but_pixels
from testkit.photos import (
    P3_COLUMNS,
    PATCHES,
    SIDE,
    SRGB_COLUMNS,
    centres,
    chrm,
    cicp,
    cmyk_profile,
    encoded,
    gama,
    gamma_curve,
    grey_profile,
    icc_profile,
    iccp,
    patches,
    png_16_bit,
    png_chunk,
    rgb_profile,
    srgb_curve,
    table_curve,
    with_chunks,
    with_nclx,
)
from tests.server.adapters.imaging.pictures import cleaned, opened

Colour = tuple[int, ...]

P3_TO_SRGB = (
    (1.2249401762805598, -0.22494017628055996, 0.0),
    (-0.042056954709688163, 1.0420569547096881, 0.0),
    (-0.019637554590334432, -0.078636045550631889, 1.0982736001409663),
)
REC2020_TO_SRGB = ((1.660491, -0.587641, -0.07285), (-0.12455, 1.1329, -0.008349), (-0.018151, -0.100579, 1.11873))
SAME = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

P3_CHROMATICITIES = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
LINEAR = grey_profile(gamma_curve(1.0))
P3 = rgb_profile(P3_COLUMNS, srgb_curve())
LINEAR_RGB = rgb_profile(SRGB_COLUMNS, gamma_curve(1.0))


def srgb_light(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)


def srgb_number(light: float) -> int:
    light = min(1.0, max(0.0, light))
    return round(255 * (12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055))


def shown(colour: Colour, matrix: tuple[tuple[float, ...], ...], curve: Callable[[float], float]) -> Colour:
    light = [curve(value / 255) for value in colour]
    return tuple(srgb_number(sum(part * of for part, of in zip(row, light, strict=True))) for row in matrix)


def in_p3(colour: Colour) -> Colour:
    return shown(colour, P3_TO_SRGB, srgb_light)


def in_linear(colour: Colour) -> Colour:
    return shown(colour, SAME, lambda value: value)


def as_gamma(exponent: float, matrix: tuple[tuple[float, ...], ...] = SAME) -> Callable[[Colour], Colour]:
    return lambda colour: shown(colour, matrix, lambda value: float(value**exponent))


def unchanged(colour: Colour) -> Colour:
    return colour


def assert_shown(data: bytes, before: Image.Image, expected: Callable[[Colour], Colour], tolerance: int = 2) -> None:
    """Compare the patches of the stored file with those of ``before``, mapped."""
    image = cleaned(data)
    assert_nothing_but_pixels(image)
    for patch, pixel in zip(centres(before), centres(opened(image)), strict=True):
        right = expected(patch)
        off = max(abs(one - other) for one, other in zip(pixel, right, strict=True))
        assert off <= tolerance, f"{patch} was stored as {pixel}, not {right}"


RGB_MODES = ["RGB", "RGBA", "P"]
CODERS: dict[str, Callable[..., bytes]] = {
    "JPEG": lambda picture, **options: encoded(picture, "JPEG", quality=97, subsampling=0, **options),
    "PNG": lambda picture, **options: encoded(picture, "PNG", **options),
    "WEBP": lambda picture, **options: encoded(picture, "WEBP", quality=97, **options),
    "AVIF": lambda picture, **options: encoded(picture, "AVIF", quality=97, subsampling="4:4:4", **options),
    "HEIF": lambda picture, **options: encoded(picture, "HEIF", quality=97, **options),
}
CASES = [
    (coder, mode)
    for coder, mode in itertools.product(CODERS, RGB_MODES)
    if coder == "PNG" or mode == "RGB" or (coder in ("WEBP", "AVIF") and mode == "RGBA")
]


def coded(coder: str, picture: Image.Image, profile: bytes) -> bytes:
    if ImageFormat(coder) not in ACCEPTED:
        pytest.skip(f"no decoder of {coder} here")
    return CODERS[coder](picture, icc_profile=profile)


@pytest.mark.parametrize(("coder", "mode"), CASES)
@pytest.mark.parametrize("meaning", ["p3", "linear", "gamma"])
def test_rgb_profile_is_honoured(coder: str, mode: str, meaning: str) -> None:
    """A profile of RGB is honoured in each container and mode."""
    profile, expected = {
        "p3": (P3, in_p3),
        "linear": (LINEAR_RGB, in_linear),
        "gamma": (rgb_profile(P3_COLUMNS, gamma_curve(1.8)), as_gamma(1.8, P3_TO_SRGB)),
    }[meaning]
    picture = patches(mode)
    assert_shown(coded(coder, picture, profile), picture, expected, 2 if coder == "PNG" else 7)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
@pytest.mark.parametrize("bits", [8, 16])
def test_grey_profile_is_honoured_in_png(mode: str, bits: int) -> None:
    """A grey profile is honoured with and without alpha, in 8 and in 16 bits."""
    picture = patches(mode)
    if bits == 16 and mode == "1":
        pytest.skip("PNG has no such mode")
    data = png_16_bit(picture) if bits == 16 else encoded(picture, "PNG")
    assert_shown(with_chunks(data, iccp(LINEAR)), picture.convert("L"), in_linear)


def test_grey_profile_is_honoured_beside_transparent_colour() -> None:
    """A grey PNG with one transparent level keeps it, and its profile counts."""
    picture = patches("L")
    level = centres(picture)[0][0]
    data = encoded(picture, "PNG", transparency=level, icc_profile=LINEAR)
    assert_shown(data, picture, in_linear)
    alpha = opened(cleaned(data)).getchannel("A")
    assert (alpha.getpixel((5, 5)), alpha.getpixel((60, 5))) == (0, 255)


def test_grey_profile_is_honoured_in_jpeg() -> None:
    """A grey JPEG with a grey profile, and one with a profile of RGB."""
    picture = patches("L")
    for profile in (LINEAR, LINEAR_RGB):
        assert_shown(CODERS["JPEG"](picture, icc_profile=profile), picture, in_linear, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_profile_for_other_pixels_is_ignored(mode: str) -> None:
    """A profile that was made for another kind of pixel changes nothing."""
    other = {"RGB": LINEAR, "L": icc_profile({}, space=b"CMYK"), "CMYK": LINEAR_RGB}[mode]
    picture = patches(mode)
    assert_shown(CODERS["JPEG"](picture, icc_profile=other), picture, unchanged, 5)


@pytest.mark.parametrize("coding", ["CMYK", "YCCK"])
def test_ink_profile_is_honoured(coding: str) -> None:
    """The mixtures of four inks look as the profile says, and not as Pillow mixes."""
    lab = {ink: inked(*ink) for ink in itertools.product((0, 1), repeat=4)}
    chosen = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 1, 1, 0)]
    picture = Image.new("CMYK", patches().size)
    for number, ink in enumerate(chosen):
        left, top = number % 3 * SIDE, number // 3 * SIDE
        picture.paste(tuple(255 * part for part in ink), (left, top, left + SIDE, top + SIDE))
    data = inks_as_ycck(picture, cmyk_profile(lab)) if coding == "YCCK" else inks(picture, cmyk_profile(lab))
    for ink, pixel in zip(chosen, centres(opened(cleaned(data))), strict=True):
        assert max(abs(one - other) for one, other in zip(pixel, from_lab(*lab[ink]), strict=True)) <= 6, ink


def inked(cyan: int, magenta: int, yellow: int, black: int) -> tuple[int, int, int]:
    """Return the Lab of a mixture, on a paper of our own."""
    light = 100 - 20 * (cyan + magenta + yellow) - 35 * black
    return light, 40 * magenta - 30 * cyan, 50 * yellow - 30 * cyan


def inks(picture: Image.Image, profile: bytes) -> bytes:
    return CODERS["JPEG"](picture, icc_profile=profile)


def inks_as_ycck(picture: Image.Image, profile: bytes) -> bytes:
    """Return the inks as Photoshop writes them (Adobe's transform 2)."""
    *colours, black = picture.split()
    turned = [band.point(lambda value: 255 - value) for band in Image.merge("RGB", colours).convert("YCbCr").split()]
    data = inks(Image.merge("CMYK", (*turned, black)), profile)
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\2" + data[at + 1 :]


def from_lab(light: float, a: float, b: float) -> Colour:
    """Return the sRGB of a Lab colour under D50 (ICC.1, Bradford)."""
    fy = (light + 16) / 116
    x, y, z = (
        white * (f**3 if f > 6 / 29 else 3 * (6 / 29) ** 2 * (f - 4 / 29))
        for f, white in ((fy + a / 500, 0.9642), (fy, 1.0), (fy - b / 200, 0.8249))
    )
    matrix = (
        (3.1338561, -1.6168667, -0.4906146),
        (-0.9787684, 1.9161415, 0.0334540),
        (0.0719453, -0.2289914, 1.4052427),
    )
    return tuple(srgb_number(r * x + g * y + bb * z) for r, g, bb in matrix)


# -- by numbers, not by name -----------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["DCI-P3 D65 Gamut with sRGB Transfer", "Display P3 Gamut with sRGB Transfer", "sRGB IEC61966-2.1", ""]
)
def test_name_of_profile_decides_nothing(name: str) -> None:
    """Profiles of phones that are wide and speak of sRGB in their name are honoured."""
    picture = patches()
    assert_shown(CODERS["JPEG"](picture, icc_profile=rgb_profile(P3_COLUMNS, srgb_curve(), name)), picture, in_p3, 6)


@pytest.mark.parametrize("curve", ["para", "table"])
def test_srgb_by_numbers_changes_no_pixel(curve: str) -> None:
    """A profile of sRGB's numbers under any name leaves every pixel alone."""
    written = srgb_curve() if curve == "para" else table_curve([srgb_light(n / 1023) for n in range(1024)])
    picture = patches()
    data = encoded(picture, "PNG", icc_profile=rgb_profile(SRGB_COLUMNS, written, "Camera"))
    assert opened(cleaned(data)).tobytes() == picture.tobytes()


@pytest.mark.parametrize("cut", range(0, len(P3), 41))
@pytest.mark.parametrize("fill", [b"", b"\xff" * 64])
def test_damaged_profile_costs_no_photo(cut: int, fill: bytes) -> None:
    """A profile that ends early or is overwritten is honoured or ignored."""
    profile = P3[:cut] + fill + P3[cut + len(fill) :] if fill else P3[:cut]
    assert cleaned(encoded(patches(), "PNG", icc_profile=profile or b"x")).width == patches().width


@pytest.mark.parametrize("coder", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_endless_profile_is_ignored(coder: str) -> None:
    """A profile above the bound is not read, whichever format carries it."""
    picture = patches()
    endless = LINEAR_RGB + bytes(MAX_PROFILE_BYTES)
    assert_shown(coded(coder, picture, endless), picture, unchanged, 2 if coder == "PNG" else 7)


# -- PNG, third edition, 4.3 -----------------------------------------------------------

NUMBERS: dict[str, tuple[tuple[bytes, ...], Callable[[Colour], Colour]]] = {
    "cicp p3": ((cicp(12, 13),), in_p3),
    "cicp rec2020": ((cicp(9, 13),), lambda colour: shown(colour, REC2020_TO_SRGB, srgb_light)),
    "cicp linear": ((cicp(1, 8),), in_linear),
    "cicp bt709": ((cicp(1, 1),), as_gamma(2.4)),
    "cicp gamma 2.2": ((cicp(1, 4),), as_gamma(2.2)),
    "cicp before iccp": ((iccp(LINEAR_RGB), cicp(12, 13)), in_p3),
    "iccp before srgb": ((png_chunk(b"sRGB", b"\0"), iccp(LINEAR_RGB)), in_linear),
    "srgb before gama": ((gama(100_000), png_chunk(b"sRGB", b"\0")), unchanged),
    "gama": ((gama(100_000),), in_linear),
    "gama and chrm": ((gama(100_000), chrm(*P3_CHROMATICITIES)), as_gamma(1.0, P3_TO_SRGB)),
    "gama 2.2 and chrm": ((chrm(*SRGB_CHROMATICITIES), gama(45_455)), as_gamma(2.2)),
    "gama of srgb": ((gama(45_455),), unchanged),
    "chrm alone": ((chrm(*P3_CHROMATICITIES),), unchanged),
    "cicp unknown, gama": ((cicp(2, 2), gama(100_000)), in_linear),
    "cicp limited, gama": ((cicp(12, 13, full=0), gama(100_000)), in_linear),
    "cicp of ycbcr": ((cicp(12, 13, matrix=1),), unchanged),
    "broken iccp, gama": ((png_chunk(b"iCCP", b"x\0\0no zlib"), gama(100_000)), in_linear),
    "iccp of garbage, gama": ((iccp(b"garbage" * 40), gama(100_000)), in_linear),
    "unknown intent, gama": ((png_chunk(b"sRGB", b"\7"), gama(100_000)), in_linear),
    "no gamma": ((gama(0),), unchanged),
    "primaries of no light": ((gama(100_000), chrm(*[0] * 8)), unchanged),
    "one primary": ((gama(100_000), chrm(31270, 32900, *[30000] * 6)), unchanged),
    "damaged gama": ((png_chunk(b"gAMA", b"\0\1\x86\xa0", checksum=7),), unchanged),
    "first of two": ((gama(100_000), gama(45_455)), in_linear),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_png_numbers_count_in_their_order(case: str) -> None:
    """The first usable one of cICP, iCCP, sRGB and gAMA with cHRM counts."""
    chunks, expected = NUMBERS[case]
    picture = patches()
    assert_shown(with_chunks(encoded(picture, "PNG"), *chunks), picture, expected)


def test_png_numbers_count_in_every_mode() -> None:
    """Grey, palettes and 16 bits have gAMA and cICP, too."""
    for data, mode in (
        (encoded(patches("L"), "PNG"), "L"),
        (encoded(patches("LA"), "PNG"), "LA"),
        (encoded(patches("P"), "PNG"), "P"),
        (png_16_bit(patches("RGBA")), "RGBA"),
    ):
        for chunk in (gama(100_000), cicp(1, 8)):
            assert_shown(with_chunks(data, chunk), patches(mode), in_linear)


def test_png_numbers_behind_pixels_are_ignored() -> None:
    """Colours are told before the pixels or not at all."""
    data = encoded(patches(), "PNG")
    assert_shown(data[:-12] + gama(100_000) + data[-12:], patches(), unchanged)


# -- AVIF and HEIC ---------------------------------------------------------------------


@pytest.mark.parametrize("coder", ["AVIF", "HEIF"])
@pytest.mark.parametrize(
    ("primaries", "transfer", "expected"),
    [
        (1, 13, unchanged),
        (12, 13, in_p3),
        (9, 13, lambda colour: shown(colour, REC2020_TO_SRGB, srgb_light)),
        (1, 8, in_linear),
        (1, 4, as_gamma(2.2)),
        (1, 1, unchanged),  # as browsers take what encoders of films write
        (12, 2, in_p3),
        (2, 2, unchanged),
        (3, 13, unchanged),
    ],
)
def test_nclx_numbers_are_honoured(
    coder: str, primaries: int, transfer: int, expected: Callable[[Colour], Colour]
) -> None:
    """The numbers of an AVIF's or HEIC's nclx box are honoured."""
    if ImageFormat(coder) not in ACCEPTED:
        pytest.skip(f"no decoder of {coder} here")
    picture = patches()
    assert_shown(with_nclx(CODERS[coder](picture), primaries, transfer), picture, expected, 7)


def test_patches_are_what_they_seem() -> None:
    """The pictures of these tests show their colours amid their patches."""
    assert centres(patches()) == [tuple(colour) for colour in PATCHES]
