"""High dynamic range to sRGB: PQ and HLG pictures as browsers show them on a screen.

ITU-R BT.2100 turns the numbers into light. The reference white tone mapping operator of
SMPTE ST 2094-50, which Chromium uses, then darkens everything up to reference white
(203 cd/m²), by half if the picture was mastered at 1,000 cd/m² or more, and bends the
rest below the brightest that the screen shows, all three components by one factor.

A table of 33 x 33 x 33 colours does it; Pillow interpolates between them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageFilter

from server.adapters.imaging.profiles import SRGB_CURVE, inverse, multiplied, to_xyz

PQ: Final = 16
HLG: Final = 18
"""Their numbers in ITU-T H.273."""

WHITE: Final = 203.0
"""Reference white, in cd/m² (ITU-R BT.2408)."""
USUAL_PEAK: Final = 1000.0
"""Brightest light of the usual mastering screen, in cd/m², and of HLG's."""
HIGHEST_PEAK: Final = 10_000.0
GRID: Final = 33

_STEPS: Final = 8191
"""Steps of the table of sRGB's curve, which is taken at the root of the light."""
_REC2020: Final = (0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046)
_REC709: Final = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_LUMINANCE: Final = (0.2627, 0.678, 0.0593)
_KAPPA: Final = 0.65
"""The bend of the curve above reference white (ST 2094-50 annex C)."""


def to_sdr(image: Image.Image, transfer: int, chromaticities: tuple[float, ...], peak: float) -> Image.Image:
    """Return an RGB or RGBA picture, coded in PQ or HLG, in sRGB.

    ``peak`` is its brightest light in cd/m²; what is brighter becomes white.
    """
    return image.filter(_table(transfer, chromaticities, min(max(peak, WHITE), HIGHEST_PEAK) / WHITE))


def _table(transfer: int, chromaticities: tuple[float, ...], peak: float) -> ImageFilter.Color3DLUT:
    """Return the table; 0.1 s of CPU."""
    codes = [n / (GRID - 1) for n in range(GRID)]
    levels = [_pq(code) if transfer == PQ else _hlg(code) for code in codes]
    into = multiplied(inverse(to_xyz(_REC2020)), to_xyz(chromaticities))
    out = multiplied(inverse(to_xyz(_REC709)), to_xyz(_REC2020))
    steps = [_encoded((n / _STEPS) ** 2) for n in range(_STEPS + 1)]
    table: list[float] = []
    for b, g in itertools.product(levels, levels):
        green_and_blue = [row[1] * g + row[2] * b for row in into]
        for r in levels:
            light = [row[0] * r + part for row, part in zip(into, green_and_blue, strict=True)]
            gain = _gain(light, transfer, peak)
            red, green, blue = light
            for x, y, z in out:
                part = (x * red + y * green + z * blue) * gain
                table.append(1.0 if part >= 1 else steps[round(math.sqrt(part) * _STEPS)] if part > 0 else 0.0)
    return ImageFilter.Color3DLUT(GRID, table)


def _gain(light: Sequence[float], transfer: int, peak: float) -> float:
    """Return the factor from light of the picture (BT.2020) to light on the screen."""
    brightest = max(light)
    if brightest <= 0:
        return 0.0
    factor = 1.0
    if transfer == HLG:  # the screen's own gamma, by the luminance of the scene
        scene = sum(weight * part for weight, part in zip(_LUMINANCE, light, strict=True))
        factor = max(0.0, scene) ** 0.2 * USUAL_PEAK / WHITE
    return factor * mapped(brightest * factor, peak) / (brightest * factor) if factor else 0.0


def mapped(light: float, peak: float) -> float:
    """Return the light on the screen, 0 to 1; ``light`` in units of reference white.

    Up to 1 it is darkened evenly, then follows a quadratic Bezier curve to the peak.
    """
    if peak <= 1:
        return light
    white = 1 - 0.5 * min(1.0, math.log(peak) / math.log(USUAL_PEAK / WHITE))
    if light <= 1:
        return light * white
    if light >= peak:
        return 1.0
    middle_x = (1 - _KAPPA) + _KAPPA / white
    middle_y = (1 - _KAPPA) * white + _KAPPA
    a, b, c = 1 - 2 * middle_x + peak, 2 * middle_x - 2, 1 - light
    t = (-b + math.sqrt(b * b - 4 * a * c)) / (2 * a) if abs(a) > 1e-9 else -c / b
    return (1 - t) ** 2 * white + 2 * t * (1 - t) * middle_y + t * t


def _pq(code: float) -> float:
    """Return the light of a PQ code value, in units of reference white (BT.2100)."""
    part = code ** (1 / 78.84375)
    return float((max(part - 0.8359375, 0) / (18.8515625 - 18.6875 * part)) ** (1 / 0.1593017578125)) * 10_000 / WHITE


def _hlg(code: float) -> float:
    """Return the light of the scene of an HLG code value, 0 to 1 (BT.2100)."""
    if code <= 0.5:
        return code * code / 3
    return (math.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12


def _encoded(light: float) -> float:
    light = min(1.0, max(0.0, light))
    g, a, b, c, _ = SRGB_CURVE
    return light / c if light <= 0.0031308 else (light ** (1 / g) - b) / a
