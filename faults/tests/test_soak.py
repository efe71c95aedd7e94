"""The soak in small: every promise is kept, and a sabotaged cluster is noticed."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from faults.soak import breakages
from server.chaos.records import Fault, read
from server.chaos.verdict import KINDS
from testkit.processes import ROOT, run_python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the cluster freezes and kills processes as Linux does it"),
    pytest.mark.xdist_group("soak"),
]

SECONDS = 220

SMALL = (
    "--sessions 270 --rate 6 --seed 5 --every 2.4 --lease-seconds 1.5 --stuck-seconds 35 "
    "--deadline-seconds 40 --retention-seconds 50"
)
"""45 s, of which a round of all kinds of fault takes 37, and 50 s until all expired.

On a machine with a load of 8 a killed process needs 5 s to be back, and two faults in
a row may hold a session for 25.
"""

FAULTS = {name.replace("_", " ") for name in breakages.KINDS} - {
    "postgresql restarted",  # it runs on SQLite
    *("proxy killed", "proxy reloaded", "bucket killed", "bucket frozen"),  # and has neither
    *(() if os.geteuid() == 0 else ("disk full",)),
}

HASTY = "--rate 10 --seed 5 --lease-seconds 1 --stuck-seconds 8 --deadline-seconds 10 --retention-seconds 12"

SABOTAGED = """
import sys
from testkit import programs
from faults.__main__ import main

spawn = programs.spawn


async def sabotaged(*command, settings, log):
    return await spawn(*command, settings={**settings, "PYTHONPATH": sys.argv[1]}, log=log)


programs.spawn = sabotaged
main(sys.argv[2:])
"""
"""Runs the soak with another folder first on the path of the product's processes: its
``sitecustomize`` is loaded by all.
"""

LEASE_OFF = """
from server.reconciler.lost_leases import LostLeases


async def nothing(self, sessions):
    pass


assert LostLeases._take_back
LostLeases._take_back = nothing
"""

SWEEP_OFF = """
from server.web.push.recovery import Recovery


async def nothing(self):
    pass


assert Recovery._sweep and Recovery._check
Recovery._sweep = nothing
"""


async def soak(options: str, *launcher: str) -> tuple[int, str]:
    """Run a soak; return its exit status and stdout."""
    command = (*(launcher or ("-m", "faults")), "soak", *options.split())
    status, out, err = await run_python(*command, seconds=SECONDS)
    print(out, err, sep="\n")
    return status, out


def findings(out: str) -> dict[str, int]:
    """Return the counts of the first table, by finding."""
    rows = out.partition("finding ")[2].splitlines()[1 : len(KINDS) + 1]
    return {name: int(count) for name, count in (re.split("  +", row)[:2] for row in rows)}


@pytest.mark.alone
@pytest.mark.timeout(SECONDS + 5)
async def test_soak_keeps_promises_while_everything_breaks(tmp_path: Path) -> None:
    """Nothing is lost, stuck, wrong or left over; each kind of fault happened."""
    records = tmp_path / "soak.jsonl"
    status, out = await soak(f"{SMALL} --record {records}")
    assert status == 0, out
    with records.open("rb") as lines:
        broken = {record.name for record in read(lines) if isinstance(record, Fault)}
    assert broken == FAULTS, "each kind at least once"
    assert len(FAULTS) >= 12


async def sabotaged(folder: Path, sabotage: str, options: str) -> str:
    """Run a soak whose cluster lacks a part; return its output."""
    (folder / "sitecustomize.py").write_text(sabotage)
    status, out = await soak(f"{HASTY} {options}", "-c", SABOTAGED, f"{folder}:{ROOT}")
    assert status == 1, out
    return out


async def test_soak_notices_leases_never_taken_back(tmp_path: Path) -> None:
    """Sessions of killed workers are found stuck."""
    out = await sabotaged(tmp_path, LEASE_OFF, "--sessions 50 --every 1.5 --only worker_killed")
    assert findings(out)["stuck"] > 0
    assert re.search(r"^stuck: .* processing for [\d.]+ s until failed", out, re.MULTILINE)


async def test_soak_notices_missing_sweep(tmp_path: Path) -> None:
    """A hub that trusts pub/sub alone loses events."""
    lossy = "--only valkey_killed --only valkey_emptied --only subscribers_cut"
    found = findings(await sabotaged(tmp_path, SWEEP_OFF, f"--sessions 80 --every 1 {lossy}"))
    assert found["lost"] + found["stale"] + found["gap"] > 0
