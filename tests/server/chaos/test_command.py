"""`tryon chaos` and `tryon verdict` as their users type them."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.chaos.records import Recorder, Remains
from server.chaos.verdict import KINDS
from server.cli.main import cli
from testkit.fixtures import StartStack
from testkit.processes import ROOT
from tests.server.chaos.histories import eventful


async def tryon(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(150):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:  # else its faults go on beside the next tests
            process.kill()
            await process.wait()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.slow
@pytest.mark.alone
async def test_run_finds_nothing_when_workers_die(stack: StartStack, tmp_path: Path) -> None:
    """Find nothing while workers are killed; find a remnant in the record."""
    up = await stack(TRYON_LEASE_SECONDS="1")
    record = tmp_path / "run.jsonl"
    kill = f"pkill -KILL -P {up.process.pid} -f arq || true"  # it may not be back yet
    status, out, err = await tryon(
        *("chaos", up.url, "--sessions", "24", "--rate", "4", "--every", "2"),
        *("--fault", f"worker={kill}", "--fault", "nothing=true", "--record", str(record)),
    )
    assert status == 0, out + err
    rows = dict(re.findall(r"^(\S[^\n]*?) {2,}(\d+) ", out, re.MULTILINE))
    assert {rows[kind] for kind in KINDS} == {"0"}
    assert int(rows["worker"]) + int(rows["nothing"]) >= 2
    told = re.search(r"^(\d+) sessions \((.*?)\), (\d+) screens, (\d+) sights", out, re.MULTILINE)
    assert told
    assert int(told[1]) >= 24
    assert int(told[4]) >= 3 * 24 * 0.7

    again, same, _ = await tryon("verdict", str(record))
    assert again == 0
    assert same.splitlines()[0] == "finding     count  meaning"
    assert same.rstrip().endswith(out.rstrip()[-200:])

    with record.open("ab") as file:
        Recorder(file)(Remains(t=1, what="file", name="inputs/a.jpg"))
    spoilt, worse, _ = await tryon("verdict", str(record))
    assert spoilt == 1
    assert "remains: : file inputs/a.jpg" in worse


@pytest.mark.slow
async def test_rate_limit_is_awaited_and_counted(stack: StartStack) -> None:
    """Wait for as long as the target's rate limit says."""
    up = await stack(TRYON_UPLOAD_RATE="3/second")
    status, out, err = await tryon("chaos", up.url, "--sessions", "8", "--rate", "100")
    assert status == 0, out
    limited = re.search(r"rate limited (\d+) times", err)
    assert limited
    assert int(limited[1]) >= 5


@pytest.mark.slow
async def test_failed_fault_stops_the_run(stack: StartStack) -> None:
    """Exit with 2 when a fault cannot be brought about."""
    up = await stack()
    status, _, err = await tryon(
        "chaos", up.url, "--sessions", "50", "--rate", "5", "--every", "0.3", "--fault", "a=exit 3"
    )
    assert (status, err) == (2, "tryon: 'exit 3' ended with status 3\n")


@pytest.mark.slow
async def test_run_without_a_fault_fails(stack: StartStack) -> None:
    """Exit with 2 when every session ended before the first fault."""
    up = await stack()
    status, out, err = await tryon("chaos", up.url, "--sessions", "1", "--every", "60", "--fault", "a=true")
    assert status == 2, out
    assert err.startswith("tryon: nothing broke: ")


async def test_missing_system_is_a_finding() -> None:
    """Exit with 1 when no upload is answered."""
    status, out, _ = await tryon("chaos", "http://127.0.0.1:1", "--sessions", "2", "--patience", "0.5")
    assert status == 1
    assert re.search(r"^unserved +3 ", out, re.MULTILINE), out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["chaos", "staging.example"], "is not an address like"),
        (["chaos", "http://127.0.0.1:1", "--fault", "worker"], "must look like 'NAME=shell command'"),
        (["chaos", "http://127.0.0.1:1", "--rate", "0"], "--rate"),
    ],
)
async def test_bad_arguments_fail_in_one_line(arguments: list[str], says: str) -> None:
    """Exit with 2 and one line that names the argument."""
    status, out, err = await tryon(*arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_bad_record_is_named_by_line(tmp_path: Path) -> None:
    """Exit with 2 and the number of the line that is no record."""
    path = tmp_path / "record"
    with path.open("wb") as file:
        record = Recorder(file)
        record(eventful().records[0])
        file.write(b"nonsense\n")
    done = CliRunner().invoke(cli, ["verdict", str(path)])
    assert done.exit_code == 2
    assert "line 2" in done.output


def test_verdict_is_json_on_demand(tmp_path: Path) -> None:
    """Print each finding on a line, then the figures."""
    path = tmp_path / "record"
    with path.open("wb") as file:
        record = Recorder(file)
        for each in (*eventful().told(), Remains(t=1, what="file", name="inputs/a.jpg")):
            record(each)
    done = CliRunner().invoke(cli, ["verdict", str(path), "--json"])
    *findings, figures = map(json.loads, done.stdout.splitlines())
    assert done.exit_code == 1
    assert "remains" in {finding["kind"] for finding in findings}
    assert sum(figures["findings"].values()) == len(findings)
    assert (figures["sessions"], set(figures["stale_seconds"])) == (1, {"p50", "p99", "max"})


def test_other_commands_load_no_chaos() -> None:
    """Keep chaos out of the start of every other command."""
    code = "import sys, server.cli.main, server.web, worker; sys.exit('server.chaos' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
