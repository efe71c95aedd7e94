# ruff: noqa: B008 -- Cog declares inputs so
# mypy: disable-error-code="misc,untyped-decorator"
"""The model that the true Cog server of the tests runs; it imports only ``cog``.

It gives its photos back after ``seconds``, or once there is a file ``release``, draws a
bar of tqdm meanwhile, and writes each begin and end of a run into ``runs.txt``.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator

from cog import BaseRunner, CancelationException, Input, Path, streaming

STEPS = 10


class _Model(BaseRunner):
    def setup(self) -> None:
        time.sleep(float(os.environ.get("SETUP_SECONDS", "0")))
        if os.environ.get("SETUP_FAILS"):
            raise RuntimeError("no weights")

    def work(self, seconds: float, fails: str) -> None:
        self.write("began")
        try:
            for step in range(STEPS + 1):
                sys.stderr.write(f"\rDenoising: {100 * step // STEPS:3}%|{'█' * step}| {step}/{STEPS} [00:01<00:02]")
                sys.stderr.flush()
                ends = time.monotonic() + (seconds / STEPS if step < STEPS else 0)
                while time.monotonic() < ends and not os.path.exists("release"):
                    time.sleep(0.01)  # a cancellation comes between two of them
            if fails:
                raise RuntimeError(fails)
        except CancelationException:
            self.write("cancelled")
            raise
        self.write("ended")

    @staticmethod
    def copy(photo: Path) -> Path:
        """Return a copy: the server deletes a run's inputs before it reads outputs."""
        return Path(shutil.copy(photo, tempfile.mkdtemp()))

    @staticmethod
    def write(word: str) -> None:
        with open("runs.txt", "a") as file:
            file.write(f"{word}\n")


class Streaming(_Model):
    """Yields the person's photo, then the garment's."""

    @streaming
    def run(
        self,
        person: Path = Input(description="Photo of a person"),
        garment: Path = Input(default=None),
        seconds: float = Input(default=0.0),
        fails: str = Input(default=""),
        seed: int = Input(default=0),
    ) -> Iterator[Path]:
        """Run the model."""
        if garment is not None:
            yield self.copy(garment)
        self.work(seconds, fails)
        yield self.copy(person)


class Waiting(_Model):
    """Returns both photos by name, when all is done."""

    def run(
        self,
        person: Path = Input(description="Photo of a person"),
        garment: Path = Input(default=None),
        seconds: float = Input(default=0.0),
        fails: str = Input(default=""),
        seed: int = Input(default=0),
    ) -> dict[str, object]:
        """Run the model."""
        self.work(seconds, fails)
        self.record_metric("seed", seed)
        return {"image": self.copy(person), "mask": garment and self.copy(garment), "note": "a text"}
