"""`tryon doctor` finds what is wrong, and says how to mend it."""

from __future__ import annotations

import json
from pathlib import Path

from testkit.fixtures import StartStack
from testkit.processes import free_port

NAMES = ["versions", "database", "clock", "redis", "storage", "limits", "processor", "server"]


async def test_doctor_finds_a_running_stack_well(stack: StartStack, tmp_path: Path) -> None:
    """Every check of a stack that serves passes, or warns of this machine."""
    up = await stack()
    settings = {"TRYON_DATA_DIR": str(up.data_dir), "TRYON_PORT": up.url.rpartition(":")[2]}
    doctor = await stack("doctor", ready=False, folder=tmp_path / "doctor", **settings)
    assert await doctor.wait() == 0, doctor.output
    states = {line.split()[1]: line.split()[0] for line in doctor.lines if not line.startswith(" ")}
    assert list(states) == NAMES
    assert {states[name] for name in ("versions", "database", "clock", "redis", "processor")} == {"ok"}, doctor.output
    assert "broken" not in states.values()
    assert any("delivers in" in line for line in doctor.lines)


async def test_doctor_warns_before_the_first_start(stack: StartStack, tmp_path: Path) -> None:
    """Name the command that makes what is missing, and make nothing."""
    doctor = await stack("doctor", "--json", ready=False, folder=tmp_path / "new", TRYON_PORT=str(free_port()))
    assert await doctor.wait() == 0, doctor.output
    found = {each["name"]: each for each in map(json.loads, doctor.lines)}
    assert list(found) == NAMES
    assert {found[name]["state"] for name in ("database", "redis", "storage", "server")} == {"warning"}
    assert "tryon up" in found["redis"]["mend"]
    assert not doctor.data_dir.exists()


async def test_doctor_names_everything_that_is_broken(stack: StartStack, tmp_path: Path) -> None:
    """Each broken part has its reason and its mend; no trace is printed."""
    (tmp_path / "file").touch()
    doctor = await stack(
        *("doctor", "--json"),
        ready=False,
        TRYON_DATABASE_URL="postgresql+asyncpg://tryon:wrong@127.0.0.1:9/tryon",
        TRYON_REDIS_URL="redis://127.0.0.1:9",
        TRYON_DATA_DIR=str(tmp_path / "file"),
        TRYON_PROCESSOR="no.such.module:Class",
        TRYON_PORT=str(free_port()),
    )
    assert await doctor.wait() == 1, doctor.output
    found = {each["name"]: each for each in map(json.loads, doctor.lines)}
    broken = {name for name, each in found.items() if each["state"] == "broken"}
    assert broken == {"database", "redis", "storage", "processor"}, doctor.output
    assert all(found[name]["mend"] for name in broken)
    assert "no.such.module:Class" in found["processor"]["text"]
    assert doctor.errors == []


async def test_doctor_stops_at_a_wrong_setting(stack: StartStack) -> None:
    """The settings come first, as at the start of a server."""
    doctor = await stack("doctor", ready=False, TRYON_SWEEP_SECONDS="soon")
    assert await doctor.wait() == 2
    assert len(doctor.errors) == 1
    assert doctor.errors[0].startswith("tryon: TRYON_SWEEP_SECONDS: ")
