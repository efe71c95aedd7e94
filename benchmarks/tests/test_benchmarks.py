"""Every benchmark runs, ends by itself and prints its table.

How fast anything is, is not asked here.
"""

from __future__ import annotations

import asyncio
import re
import sys

import pytest

from testkit.processes import ROOT

SECONDS = 90
TINY = {
    "push": (
        "--clients 6 --rate 10 --seconds 1 --rounds 1 --mock-seconds 0.2 --storm 1",
        "round, event",
        ["1 processing", "1 all"],
    ),
    "fanout": ("--clients 5 --rate 20 --seconds 0.3", "server", ["tryon", "starlette"]),
    "idle": ("--clients 5 --seconds 0.5 --ping-seconds 0.2", "server", ["tryon", "starlette"]),
    "connect": ("--clients 5 --rounds 1", "server, round", ["tryon 1", "starlette 1"]),
    "waiting": ("--clients 5 --seconds 1 --poll-seconds 0.2 --news-seconds 0.3", "way", ["push", "polling"]),
    "upload": (
        "--seconds 0.3 --connections 2 --size small",
        "upload",
        [r"\d+ kB, Pillow alone", r"\d+ kB, 2 at a time"],
    ),
    "start": ("--starts 1", "command", ["tryon serve", "tryon up"]),
    "collect": ("--clients 100", "followers", ["100"]),
    "pickup": ("--sessions 3 --idle-seconds 0.3 --mock-seconds 0.1", "sessions", ["3 +3"]),
}


linux = pytest.mark.skipif(
    sys.platform != "linux", reason="the benchmarks read CPU clocks and memory from Linux's /proc"
)


async def run(name: str, options: str) -> str:
    """What ``python -m benchmarks NAME`` writes; AssertionError if it fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", name, *options.split()),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


@linux
@pytest.mark.parametrize("name", TINY)
async def test_a_benchmark_runs_in_a_tiny_size_and_prints_its_table(name: str) -> None:
    options, head, rows = TINY[name]
    out = await run(name, options)
    described, machine, settings, *rest = out.splitlines()
    assert described.startswith("# ")
    assert "cores" in machine
    assert "TRYON_" in settings
    assert rest[0].startswith(head + "  "), out
    for row in rows:
        assert re.search(rf"^{row}  +\S", out, re.MULTILINE), out


@linux
async def test_after_a_restart_and_a_crash_everybody_is_back_and_right() -> None:
    out = await run("avalanche", "--clients 20")
    columns = re.split(r"  +", next(line for line in out.splitlines() if line.startswith("signal")))
    for name in ("SIGTERM", "SIGKILL"):
        figures = re.split(r" {2,}", next(line for line in out.splitlines() if line.startswith(name)))
        told = dict(zip(columns, figures, strict=True))
        assert (told["back"], told["right"]) == ("20", "20"), out


def test_every_benchmark_is_tried_here() -> None:
    from benchmarks.__main__ import main

    assert set(main.commands) == {*TINY, "avalanche"}


def test_every_command_of_the_pages_exists_and_every_benchmark_is_on_one() -> None:
    from benchmarks.__main__ import main

    page = (ROOT / "docs" / "performance.md").read_text()
    named = re.findall(r"python -m benchmarks ([a-z]+)((?: --[a-z-]+ \S+)*)[`\n]", page)
    for name, options in named:
        main.commands[name].make_context(name, options.split())
    assert {name for name, _ in named} == set(main.commands)
