"""The overlay as a processor: its conformance, in the process and in the sandbox."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testkit.contact_sheet import PEOPLE, encoded, job_of, photo_of
from testkit.garments import draw_garment
from testkit.processes import ROOT
from tryon.processor.conformance import ProcessorConformance, Reports
from worker.isolation.confined import Confined
from worker.processors.overlay.processor import OverlayProcessor
from worker.processors.registry import find

pytestmark = [pytest.mark.xdist_group("overlay"), pytest.mark.usefixtures("installed")]


class Photos(ProcessorConformance):
    """The conformance suite with a person and a garment."""

    stop_seconds = 5.0  # a step of the work runs to its end in a thread

    def photo(self, role: str, index: int) -> tuple[bytes, str]:
        if role == "garment":
            return encoded(draw_garment("violet-top")), "image/png"
        return photo_of("ada"), "image/jpeg"


@pytest.mark.slow
class TestOverlay(Photos):
    def make(self) -> OverlayProcessor:
        return OverlayProcessor()


def test_overlay_is_built_in() -> None:
    """``TRYON_PROCESSOR=overlay`` names it."""
    assert find("overlay") is OverlayProcessor


async def test_run_reports_its_steps(tmp_path: Path) -> None:
    """The stages are those of the work, the progress grows, the result is a JPEG."""
    processor, report = OverlayProcessor(), Reports()
    await processor.start()
    output = await processor.run(job_of(tmp_path, photo_of("ada"), encoded(draw_garment("violet-top"))), report)
    assert output.data.startswith(b"\xff\xd8\xff")
    progress = [each.progress for each in report.all]
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert progress == sorted(each for each in progress if each is not None)
    assert "cutting out the garment" in [each.stage for each in report.all]


MEASURE = """
import re, sys
from pathlib import Path
from worker.processors.overlay.fitting import PHOTO_SIDE, Fitting, read_picture
person, garment, weights = (Path(each) for each in sys.argv[1:])
fitting = Fitting(weights)
photo, _ = read_picture(person.read_bytes(), PHOTO_SIDE)
pose, body = fitting.look(photo)
fitting.dress(photo, fitting.cut(garment.read_bytes()), body, fitting.separate(photo, pose, body))
status = Path("/proc/self/status").read_text()  # getrusage counts the pages of the process that forked this one
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) // 1024)
"""


@pytest.mark.slow
def test_run_fits_into_memory(installed: Path, tmp_path: Path) -> None:
    """Libraries, networks and one run take 280 MB; the limit leaves room for others."""
    (garment := tmp_path / "garment.png").write_bytes(encoded(draw_garment("sun-tee")))
    command = [sys.executable, "-c", MEASURE, str(PEOPLE / "ben.jpg"), str(garment), str(installed)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 400


@pytest.mark.slow
def test_overlay_runs_in_its_sandbox() -> None:
    """A worker's child reads the weights and its code, and nothing else."""

    class InChild(Photos):
        def make(self) -> Confined:
            return Confined("overlay")

    InChild().test_run_returns_outputs()
