"""The storage with its metrics: the same contract, and what it counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from server.adapters.files.local import LocalFiles
from server.adapters.files.measured import MeasuredFiles
from server.adapters.files.threads import StorageThreads
from tests.server.adapters.files.contract import KEY, OTHER, FilesContract, chunks
from tryon.protocol.errors import Unavailable


@pytest.fixture
async def files(tmp_path: Path) -> MeasuredFiles:
    local = LocalFiles(tmp_path / "uploads", StorageThreads())
    await local.make_folders()
    return MeasuredFiles(local)


class TestMeasuredFiles(FilesContract):
    """Every guarantee of the port."""


def sample(name: str, **labels: str) -> float:
    """Return a sample of this process."""
    return REGISTRY.get_sample_value(f"tryon_{name}", labels) or 0.0


async def test_files_and_bytes_are_counted_by_folder(files: MeasuredFiles) -> None:
    """Whole, in chunks, read and opened; a deletion counts what existed."""

    def counts() -> list[float]:
        return [
            sample("files_total", folder="inputs", operation="stored"),
            sample("file_bytes_total", folder="inputs", operation="stored"),
            sample("files_total", folder="outputs", operation="stored"),
            sample("file_bytes_total", folder="outputs", operation="stored"),
            sample("files_total", folder="inputs", operation="read"),
            sample("file_bytes_total", folder="inputs", operation="read"),
            sample("files_total", folder="inputs", operation="deleted"),
            sample("storage_seconds_count", operation="put"),
        ]

    before = counts()
    await files.put(KEY, b"12345")
    await files.put(OTHER, chunks(b"123", b"4567"))
    await files.get(KEY)
    opened = await files.open(KEY)
    await opened.aclose()
    await files.delete([KEY, KEY.replace("image", "person-0")])
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 5, 1, 7, 2, 10, 1, 2]


async def test_failed_call_is_counted_and_raised(files: MeasuredFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file is no failure of the storage."""
    before = sample("storage_errors_total", operation="get"), sample("storage_seconds_count", operation="get")

    async def unavailable(key: str) -> bytes:
        raise Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(files.files, "get", unavailable)
        with pytest.raises(Unavailable):
            await files.get(KEY)
    with pytest.raises(Exception, match=KEY):
        await files.get(KEY)
    assert sample("storage_errors_total", operation="get") == before[0] + 1
    assert sample("storage_seconds_count", operation="get") == before[1] + 2
