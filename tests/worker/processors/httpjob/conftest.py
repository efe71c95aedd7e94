"""A job for a processor that asks a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit.model_host import picture
from tryon.processor import Input, Job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Return a job with a person and two garments."""
    inputs = []
    for role, index in (("person", 0), ("garment", 0), ("garment", 1)):
        data = picture(colour=f"rgb({40 * index + len(role)}, 9, 9)")
        path = tmp_path / f"{role}-{index}.jpeg"
        path.write_bytes(data)
        inputs.append(
            Input(role=role, index=index, type="image/jpeg", path=str(path), bytes=len(data), width=48, height=64)
        )
    return Job(session_id="s1", inputs=tuple(inputs), seed=7, trace="00-ab-cd-01")
