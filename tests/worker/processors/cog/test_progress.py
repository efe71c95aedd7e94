"""Progress out of what models print."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.processors.cog.progress import TAIL_CHARACTERS, Printed, Progress, newest


@pytest.mark.parametrize(
    ("text", "progress"),
    [
        (
            "Denoising:  40%|████      | 12/30 [00:03<00:05,  3.50it/s]",
            Progress(share=0.4, step=12, steps=30, stage="Denoising", eta_seconds=5),
        ),
        ("\r  7%|▋         | 2/30 [00:03<1:00:05, 3s/it]", Progress(share=2 / 30, step=2, steps=30, eta_seconds=3605)),
        ("  0%|          | 0/30 [00:00<?, ?it/s]", Progress(share=0, step=0, steps=30)),
        ("100%|██████████| 30/30 [00:10<00:00]\ndone", Progress(share=1, step=30, steps=30, eta_seconds=0)),
        ("Step 3/10", Progress(share=0.3, step=3, steps=10)),
        ("iteration: 4 of 8, loss 0.2", Progress(share=0.5, step=4, steps=8)),
        ("Progress: 45 %", Progress(share=0.45)),
        ("progress=0.25", Progress(share=0.25)),
        ("step 1/4\nloading\nstep 2/4\nsaving", Progress(share=0.5, step=2, steps=4)),
        ("step 12/10", Progress(share=1, step=12, steps=10)),
    ],
)
def test_line_becomes_progress(text: str, progress: Progress) -> None:
    """Bars of tqdm, steps and shares are read; the last line that tells counts."""
    assert newest(text) == progress


@pytest.mark.parametrize(
    "text", ["", "loading 3/4 shards", "progress: 140 %", "step 1/0", "0%|| 0/0 [00:00<?]", "batch 50%", "a" * 9999]
)
def test_other_lines_say_nothing(text: str) -> None:
    """Text that is no progress is not taken for one."""
    assert newest(text) is None


@given(st.integers(0, 120), st.integers(0, 120))
def test_bar_may_come_in_pieces(first: int, second: int) -> None:
    """Wherever the pieces of a log are cut, the bar is found by its last one."""
    line = "loaded\rDenoising:  40%|████      | 12/30 [00:03<00:05,  3.50it/s]"
    one, two = sorted((first, second))
    printed = Printed()
    found = [printed.add(piece) for piece in (line[:one], line[one:two], line[two:])]
    assert [each for each in found if each is not None][-1].step == 12


def test_hostile_text_takes_bounded_time() -> None:
    """A model that prints megabytes without a line break costs milliseconds."""
    printed = Printed()
    began = time.process_time()
    for piece in ("1" * 10**6, "a: " * 10**6, "9%|" * 10**6, "step " * 10**6, "%|" * 10**6):
        printed.add(piece)
    assert time.process_time() - began < 2
    assert len(repr(printed)) < 100
    assert len(printed._tail) <= TAIL_CHARACTERS
