"""The soak in small: a real cluster, hurt in every way it knows, keeps every promise; a
sabotaged one is found out.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from faults.soak import Faults
from server.chaos.records import Fault, read
from server.chaos.verdict import KINDS
from testkit.processes import ROOT

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the cluster freezes and kills processes as Linux does it"),
    pytest.mark.xdist_group("soak"),
]

SECONDS = 175

SMALL = (
    "--sessions 270 --rate 6 --seed 5 --every 2.4 --lease-seconds 1.5 --stuck-seconds 20 "
    "--deadline-seconds 25 --retention-seconds 30"
)
"""45 s, of which a round of all kinds of fault takes 37, and half a minute until all
has expired.
"""

FAULTS = {name.replace("_", " ") for name in vars(Faults) if not name.startswith("_")} - {
    "table",
    "postgresql restarted",  # it runs on SQLite
    *(() if os.geteuid() == 0 else ("disk full",)),
}

HASTY = "--rate 10 --seed 5 --lease-seconds 1 --stuck-seconds 8 --deadline-seconds 10 --retention-seconds 12"

SABOTAGED = """
import sys
from testkit import cluster
from faults.__main__ import main

spawn = cluster.spawn


async def sabotaged(*command, environ, log):
    return await spawn(*command, environ={**environ, "PYTHONPATH": sys.argv[1]}, log=log)


cluster.spawn = sabotaged
main(sys.argv[2:])
"""
"""Runs the soak with another folder first on the path of the product's processes: its
``sitecustomize`` is loaded by all.
"""

LEASE_OFF = """
from server.reconciler.reconciler import Reconciler


async def nothing(self, session):
    pass


assert Reconciler._take_back
Reconciler._take_back = nothing
"""

SWEEP_OFF = """
from server.web.push.recovery import Recovery


async def nothing(self):
    pass


assert Recovery._sweep and Recovery._check
Recovery._sweep = nothing
"""


async def soak(options: str, *launcher: str) -> tuple[int | None, str]:
    """Its exit status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *(launcher or ("-m", "faults")), "soak", *options.split()),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    print(out.decode())
    return process.returncode, out.decode()


def findings(out: str) -> dict[str, int]:
    """The first table: finding, count."""
    rows = out.partition("finding ")[2].splitlines()[1 : len(KINDS) + 1]
    return {name: int(count) for name, count in (re.split("  +", row)[:2] for row in rows)}


@pytest.mark.timeout(SECONDS + 5)
async def test_nothing_is_lost_stuck_wrong_or_left_over_while_everything_breaks(tmp_path: Path) -> None:
    records = tmp_path / "soak.jsonl"
    status, out = await soak(f"{SMALL} --record {records}")
    assert status == 0, out
    with records.open("rb") as lines:
        broken = {record.name for record in read(lines) if isinstance(record, Fault)}
    assert broken == FAULTS, "each kind at least once"
    assert len(FAULTS) >= 12


async def sabotaged(folder: Path, sabotage: str, options: str) -> str:
    """What a soak printed whose cluster does without something."""
    (folder / "sitecustomize.py").write_text(sabotage)
    status, out = await soak(f"{HASTY} {options}", "-c", SABOTAGED, f"{folder}:{ROOT}")
    assert status == 1, out
    return out


async def test_a_build_that_does_not_take_lost_leases_back_is_found_out(tmp_path: Path) -> None:
    out = await sabotaged(tmp_path, LEASE_OFF, "--sessions 50 --every 1.5 --only worker_killed")
    assert findings(out)["stuck"] > 0
    assert re.search(r"^stuck: .* processing for [\d.]+ s until failed", out, re.MULTILINE)


async def test_a_build_that_trusts_pub_sub_is_found_out(tmp_path: Path) -> None:
    lossy = "--only valkey_killed --only valkey_emptied --only subscribers_cut"
    found = findings(await sabotaged(tmp_path, SWEEP_OFF, f"--sessions 80 --every 1 {lossy}"))
    assert found["lost"] + found["stale"] + found["gap"] > 0
