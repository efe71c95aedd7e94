"""Read a folder of photos once, as uploads: ``python -m testkit.corpora FOLDER``.

FOLDER is a directory or a bare git repository. Every file that begins like a JPEG, PNG,
WebP, AVIF or HEIC goes through the product's image processes. Printed are the files,
how many were taken and how many refused for each reason; with ``--chromium`` also how
many have other colours than Chromium shows, and which refused ones it shows.

Public collections stay where they are: none of their files belongs here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from server.adapters.imaging.heif_file import heif_colours
from server.adapters.imaging.parts import CodePoints
from server.adapters.imaging.png_file import read_png
from server.adapters.imaging.pool import Imaging
from server.adapters.imaging.tone_mapping import HLG, PQ
from server.domain.images import MAGIC_BYTES, CleanImage, ImageFormat, Limits, sniff
from testkit.rendering import Renderer, colour_difference, difference, rendering
from tryon.protocol.errors import TryOnError

SDR_DIFFERENCE = 2.0
HDR_DIFFERENCE = 3.0
"""Largest mean difference of colours from Chromium's picture, of 255.

The second is for PQ and HLG, of which the decoders here keep 8 of 10 bits.
"""
MAX_BYTES = 32 * 2**20


@dataclass
class Report:
    """Counts of the files by their outcome."""

    files: int = 0
    taken: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    compared: int = 0
    moving: int = 0
    grainy: int = 0
    largest: float = 0.0

    def lines(self, *, chromium: bool) -> Iterator[str]:
        """Yield the report, a line at a time."""
        yield f"files     {self.files}"
        yield f"taken     {self.taken}"
        yield f"refused   {sum(self.refused.values())}"
        for reason, count in self.refused.most_common():
            yield f"{count:9} {reason}"
        if chromium:
            yield f"compared  {self.compared} with Chromium, largest mean difference of colours {self.largest:.2f}"
            yield f"grain     {self.grainy} differ by more than {SDR_DIFFERENCE:g} a pixel, grain included"
            yield f"moving    {self.moving}, not compared"
            yield f"wrong     {len(self.wrong)}"
            yield from (f"          {line}" for line in self.wrong)
            yield f"shown by Chromium, refused here: {len(self.shown)}"
            yield from (f"          {line}" for line in self.shown)


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every file of a directory or a bare repository."""
    if not (folder / "HEAD").exists():
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size <= MAX_BYTES):
            yield str(path.relative_to(folder)), path.read_bytes()
        return
    git = ("git", "-C", str(folder))
    listed = subprocess.run((*git, "ls-tree", "-r", "-z", "HEAD"), check=True, capture_output=True).stdout
    with subprocess.Popen((*git, "cat-file", "--batch"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reading:
        assert reading.stdin is not None and reading.stdout is not None
        for entry in filter(None, listed.split(b"\0")):
            about, _, name = entry.partition(b"\t")
            reading.stdin.write(about.split()[2] + b"\n")
            reading.stdin.flush()
            head = reading.stdout.readline().split()
            if len(head) == 3:
                content = reading.stdout.read(int(head[2]))
                reading.stdout.read(1)
                yield name.decode(errors="replace"), content
        reading.stdin.close()


async def read(folder: Path, renderer: Renderer | None) -> Report:
    """Clean every picture of ``folder``; compare it if there is a ``renderer``."""
    report = Report()
    async with Imaging(Limits(max_bytes=MAX_BYTES, min_side=1, max_side=16384, max_pixels=100_000_000)) as imaging:
        for name, data in files(folder):
            if sniff(data[:MAGIC_BYTES]) is None:
                continue
            report.files += 1
            try:
                stored = await imaging.clean(io.BytesIO(data))
            except TryOnError as error:
                report.refused[f"{error.code}: {error.detail}"] += 1
                if renderer is not None and await renderer.shown(data) is not None:
                    report.shown.append(f"{name} ({error.detail})")
            else:
                report.taken += 1
                if renderer is not None:
                    await _compare(report, renderer, name, data, stored)
    return report


async def _compare(report: Report, renderer: Renderer, name: str, data: bytes, stored: CleanImage) -> None:
    if _moves(data):  # what a screenshot shows of it depends on the moment
        report.moving += 1
        return
    original, ours = await renderer.shown(data), await renderer.shown(stored.data)
    if original is None or ours is None:
        return
    report.compared += 1
    off = colour_difference(original, ours)
    report.largest = max(report.largest, off)
    report.grainy += difference(original, ours) > SDR_DIFFERENCE
    if off > (HDR_DIFFERENCE if _is_bright(data) else SDR_DIFFERENCE):
        with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as picture:
            name += f" {picture.format} {picture.mode} {picture.size}"
        report.wrong.append(f"{off:6.2f} {name}")


def _is_bright(data: bytes) -> bool:
    """Return whether a PNG or AVIF says that it is coded in PQ or HLG."""
    with contextlib.suppress(TryOnError):
        colours = read_png(data).colours if sniff(data[:MAGIC_BYTES]) is ImageFormat.PNG else heif_colours(data)
        return any(isinstance(each, CodePoints) and each.transfer in (PQ, HLG) for each in colours)
    return False


def _moves(data: bytes) -> bool:
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as picture:
        return picture.format != "MPO" and bool(getattr(picture, "is_animated", False))
    return False


async def main() -> None:
    """Read the folder of the command line and print the report."""
    parser = argparse.ArgumentParser(prog="python -m testkit.corpora", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chromium", action="store_true", help="compare with what Chromium shows")
    options = parser.parse_args()
    if options.chromium:
        async with rendering() as renderer:
            report = await read(options.folder, renderer)
    else:
        report = await read(options.folder, None)
    print("\n".join(report.lines(chromium=options.chromium)))


if __name__ == "__main__":
    asyncio.run(main())
