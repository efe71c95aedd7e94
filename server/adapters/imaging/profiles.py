"""ICC profiles: judged by their numbers, and made from chromaticities.

A profile's name decides nothing: Samsung calls its own "DCI-P3 D65 Gamut with sRGB
Transfer", Android "Display P3 Gamut with sRGB Transfer". ICC.1:2022 (profile version
4.4).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from server.adapters.imaging.parts import CodePoints

Matrix = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]

SRGB_CURVE: Final = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""Parameters g, a, b, c, d of a curve: ``(a x + b) ** g`` from d on, ``c x`` below."""

_D50: Final = (0.9642, 1.0, 0.8249)
_SRGB_COLUMNS: Final = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
_SAME_COLUMN: Final = 0.0005
"""Two levels of 255 in the darkest channel of the purest colour."""
_SAME_CURVE: Final = 0.0015
"""Difference of linear light that is no other curve, a third of a level at mid-grey."""
_SAMPLES: Final = tuple(n / 16 for n in range(17))
_BRADFORD: Final[Matrix] = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_MAX_TAGS: Final = 100
_MAX_TAG_BYTES: Final = 65_536
_READ: Final = frozenset({b"A2B0", b"cicp", b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"})


# -- a profile's numbers ---------------------------------------------------------------


def is_srgb(profile: bytes) -> bool:
    """Return whether the profile means sRGB, so that no pixel would change.

    False for a profile with tables, whatever stands in them. Raises struct.error or
    ValueError for a broken one.
    """
    tags = _tags(profile)
    if profile[16:20] != b"RGB " or b"A2B0" in tags or any(name not in tags for name in (b"rXYZ", b"rTRC", b"gTRC")):
        return False
    for name, expected in zip((b"rXYZ", b"gXYZ", b"bXYZ"), _SRGB_COLUMNS, strict=True):
        column = struct.unpack_from(">3i", tags[name], 8)
        if any(abs(part / 65536 - right) > _SAME_COLUMN for part, right in zip(column, expected, strict=True)):
            return False
    return all(_is_srgb_curve(curve) for curve in {tags[name] for name in (b"rTRC", b"gTRC", b"bTRC")})


def code_points(profile: bytes) -> CodePoints | None:
    """Return the numbers of a ``cicp`` tag (ICC.1:2022 9.2.17), None without one.

    Raises struct.error for a broken profile.
    """
    tag = _tags(profile).get(b"cicp", b"")
    return CodePoints(tag[8], tag[9]) if len(tag) >= 12 and tag[10:12] == b"\0\1" else None


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    found = {}
    for number in range(min(count, _MAX_TAGS)):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        if name in _READ:
            found[name] = profile[offset : offset + min(size, _MAX_TAG_BYTES)]
    return found


def _is_srgb_curve(tag: bytes) -> bool:
    return all(abs(_evaluate(tag, x) - power(SRGB_CURVE, x)) <= _SAME_CURVE for x in _SAMPLES)


def _evaluate(tag: bytes, x: float) -> float:
    """Return the light of a tone curve at ``x`` (types ``curv`` and ``para``)."""
    if tag.startswith(b"para"):
        kind = int.from_bytes(tag[8:10])
        if kind not in (0, 3):  # no program writes another kind for sRGB
            return -1.0
        values = [part / 65536 for part in struct.unpack_from(f">{5 if kind else 1}i", tag, 12)]
        return power(values if kind else (values[0], 1.0, 0.0, 0.0, 0.0), x)
    (count,) = struct.unpack_from(">I", tag, 8)
    if count < 2:
        return float(x ** (struct.unpack_from(">H", tag, 12)[0] / 256)) if count else x
    at = min(int(x * (count - 1)), count - 2)
    low, high = struct.unpack_from(">2H", tag, 12 + 2 * at)
    return float(low + (high - low) * (x * (count - 1) - at)) / 65535


def power(curve: Sequence[float], x: float) -> float:
    """Return the light of :data:`SRGB_CURVE` or another such curve at ``x``."""
    g, a, b, c, d = curve
    return float((a * x + b) ** g if x >= d else c * x)


# -- profiles of our own ---------------------------------------------------------------


def matrix_profile(chromaticities: Sequence[float], curve: Sequence[float]) -> bytes:
    """Return the profile of three primaries and a curve.

    ``chromaticities`` are x and y of white, red, green and blue. Raises ValueError,
    ZeroDivisionError or struct.error for primaries that no light has.
    """
    columns = tuple(zip(*multiplied(adaptation(chromaticities[:2]), to_xyz(chromaticities)), strict=True))
    values = [_fixed(value) for value in curve]
    tone = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + b"".join(values)
    tags = {
        b"wtpt": _xyz(_D50),
        **{name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone),
    }
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s12s4s", size, b"", 0x04300000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp")
    return head + bytes(28) + b"".join(map(_fixed, _D50)) + bytes(48) + table + body


def to_xyz(chromaticities: Sequence[float]) -> Matrix:
    """Return the matrix from linear RGB to XYZ.

    Raises ValueError or ZeroDivisionError if there is none.
    """
    (x, y), *primaries = zip(chromaticities[::2], chromaticities[1::2], strict=True)
    rows = tuple(zip(*((x, y, 1 - x - y) for x, y in primaries), strict=True))
    lights = transformed(inverse(rows), (x / y, 1.0, (1 - x - y) / y))  # type: ignore[arg-type]
    return tuple(tuple(part * light for part, light in zip(row, lights, strict=True)) for row in rows)  # type: ignore[return-value]


def adaptation(white: Sequence[float]) -> Matrix:
    """Return Bradford's matrix from a white (x, y) to D50 (ICC.1:2022 annex E)."""
    x, y = white
    source = transformed(_BRADFORD, (x / y, 1.0, (1 - x - y) / y))
    target = transformed(_BRADFORD, _D50)
    scaled = tuple(tuple(part * to / of for part in row) for row, of, to in zip(_BRADFORD, source, target, strict=True))
    return multiplied(inverse(_BRADFORD), scaled)  # type: ignore[arg-type]


def inverse(m: Matrix) -> Matrix:
    """Return the inverse. Raises ValueError if there is none."""
    (a, b, c), (d, e, f), (g, h, i) = m
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if abs(determinant) < 1e-9:
        raise ValueError("primaries that span nothing")
    adjugate = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    return tuple(tuple(part / determinant for part in row) for row in adjugate)  # type: ignore[return-value]


def multiplied(one: Matrix, other: Matrix) -> Matrix:
    return tuple(zip(*(transformed(one, column) for column in zip(*other, strict=True)), strict=True))  # type: ignore[return-value]


def transformed(m: Matrix, v: Sequence[float]) -> tuple[float, float, float]:
    return tuple(sum(part * value for part, value in zip(row, v, strict=True)) for row in m)  # type: ignore[return-value]


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))
