"""Metrics that several processes share: full disks, restarts, growth."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from server.telemetry import metric_files, shared_values
from server.telemetry.shared_values import SharedValues
from testkit.fixtures import disk_of
from testkit.processes import environment

COUNTING = """
import sys
from server.telemetry import metrics
if len(sys.argv) > 1:
    open(sys.argv[1], "wb", buffering=0).write(bytes(2**20))  # as much as there is room
for number in range(50):
    metrics.http_requests.labels("GET", f"/{number}", "200").inc()
    metrics.http_seconds.labels(f"/{number}").observe(0.1)
metrics.followers.labels("ws").set(1)
metrics.render_metrics()
"""
"""Fills the disk when its metrics are made, if asked, and counts in many pages."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk with room for the files of one process."""
    with disk_of(tmp_path / "disk", "1m") as folder:
        yield folder


def count(folder: Path, *arguments: Path, name: str = "web1") -> None:
    """Count in a process of its own, which must end well."""
    settings = {metric_files.FOLDER_VARIABLE: str(folder / "metrics"), metric_files.NAME_VARIABLE: name}
    command = [sys.executable, "-c", COUNTING, *map(str, arguments)]
    done = subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)


def total(folder: Path, sample: str) -> float:
    """Return a sample of all processes, summed over its labels."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder / "metrics"))  # type: ignore[no-untyped-call]  # no annotation there
    lines = generate_latest(registry).decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample))


def test_counting_survives_a_disk_that_fills(disk: Path) -> None:
    """Count on in files that were allocated before: no SIGBUS, and nothing is lost."""
    metric_files.prepare(disk / "metrics", ["web1"])
    count(disk, disk / "filler")
    assert total(disk, "tryon_http_requests_total") == 50
    assert total(disk, "tryon_http_request_seconds_count") == 50


def test_counting_starts_on_a_full_disk(disk: Path) -> None:
    """Count in memory where there is no room for a file, and leave no part of one."""
    metric_files.prepare(disk / "metrics", ["web1"])
    with (disk / "filler").open("wb", buffering=0) as file:
        file.write(bytes(2**20))
    count(disk)
    assert list((disk / "metrics").iterdir()) == []


def test_counters_go_on_after_a_restart(tmp_path: Path) -> None:
    """Continue the files of the process before, and leave no other behind."""
    metric_files.prepare(tmp_path / "metrics", ["web1"])
    for times in range(1, 4):
        count(tmp_path)
        assert total(tmp_path, "tryon_http_requests_total") == 50 * times
        assert total(tmp_path, "tryon_http_request_seconds_count") == 50 * times
        assert len(list((tmp_path / "metrics").iterdir())) == 3
    assert total(tmp_path, "tryon_followers") == 1
    metric_files.forget_gauges(tmp_path / "metrics", "web1")
    assert total(tmp_path, "tryon_followers") == 0
    assert total(tmp_path, "tryon_http_requests_total") == 150


def test_next_start_empties_files_in_place(tmp_path: Path) -> None:
    """Keep the blocks of living names and delete the files of all others."""
    folder = tmp_path / "metrics"
    metric_files.prepare(folder, ["web1"])
    count(tmp_path)
    count(tmp_path, name="web2")
    before = {file.name: file.stat().st_ino for file in folder.glob("*web1*")}
    metric_files.prepare(folder, ["web1"])
    assert {file.name: file.stat().st_ino for file in folder.iterdir()} == before
    assert total(tmp_path, "tryon_http_requests_total") == 0


def test_values_move_to_a_file_when_there_is_room(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count in memory while the disk is full; share everything afterwards."""
    monkeypatch.setattr(shared_values, "RETRY_SECONDS", 0.0)
    filler = disk / "filler"
    filler.write_bytes(bytes(2**20 - 8192))
    file = disk / "counter_web1.db"
    values = SharedValues(str(file))
    values.write_value("a", 1.0, 0.0)
    assert not file.exists()
    filler.unlink()
    values.write_value("b", 2.0, 0.0)
    read = {key.rstrip(): value for key, value, *_ in SharedValues.read_all_values_from_file(str(file))}  # type: ignore[no-untyped-call]  # no annotation there
    assert read == {"a": 1.0, "b": 2.0}


def test_file_grows_with_its_entries(tmp_path: Path) -> None:
    """Keep every value when a file gets too small, and allocate all of it."""
    file = tmp_path / "counter_web1.db"
    values = SharedValues(str(file))
    for number in range(4000):
        values.write_value(f"key {number:0100}", float(number), 0.0)
    again = SharedValues(str(file))
    assert again.read_value(f"key {3999:0100}") == (3999.0, 0.0)  # type: ignore[no-untyped-call]  # no annotation there
    assert file.stat().st_blocks * 512 >= file.stat().st_size > shared_values.FILE_BYTES


def test_processes_of_one_name_spoil_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second counts in memory until the first has ended: a rolling restart."""
    monkeypatch.setattr(shared_values, "RETRY_SECONDS", 0.0)
    file = tmp_path / "counter_web1.db"

    def read() -> dict[str, float]:
        found = SharedValues.read_all_values_from_file(str(file))  # type: ignore[no-untyped-call]  # no annotation there
        return {key.rstrip(): value for key, value, *_ in found}

    first, second = SharedValues(str(file)), SharedValues(str(file))
    for turn in (1.0, 2.0):
        first.write_value("a", turn, 0.0)
        second.write_value("of the other process", turn, 0.0)
    assert read() == {"a": 2.0}
    first.close()
    second.write_value("of the other process", 3.0, 0.0)
    assert read() == {"of the other process": 3.0}


def test_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    """Start with nothing after a file that cannot be read."""
    file = tmp_path / "counter_web1.db"
    file.write_bytes(b"\xff\xff\xff\x7f" * 100)
    values = SharedValues(str(file))
    values.write_value("a", 1.0, 0.0)
    assert [value for _, value, *_ in SharedValues.read_all_values_from_file(str(file))] == [1.0]  # type: ignore[no-untyped-call]  # no annotation there
