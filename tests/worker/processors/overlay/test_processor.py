"""The overlay as a processor: its conformance, in the process and in the sandbox."""

from __future__ import annotations

import pytest

from testkit.contact_sheet import encoded, photo_of
from testkit.garments import draw_garment
from tryon.processor.conformance import ProcessorConformance
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


@pytest.mark.slow
def test_overlay_runs_in_its_sandbox() -> None:
    """A worker's child reads the weights and its code, and nothing else."""

    class InChild(Photos):
        def make(self) -> Confined:
            return Confined("overlay")

    InChild().test_run_returns_outputs()
