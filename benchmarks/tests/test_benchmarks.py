"""Every benchmark runs in a tiny size and prints its table; figures are not judged."""

from __future__ import annotations

import re
import sys

import pytest

from benchmarks.__main__ import main
from testkit.documents import text_of
from testkit.processes import run_python

SECONDS = 240
"""Bound on one run, of which the longest takes 25 s on a quiet machine."""
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
    "attack": (
        "--uploads 2 --size small --megapixels 1",
        "upload",
        ["small, alone", "small, under attack"],
    ),
    "start": ("--starts 1", "command", ["tryon serve", "tryon up"]),
    "collect": ("--clients 100", "followers", ["100"]),
    "chores": (
        "--living 200 --waiting 10 --running 100 --rounds 1 --events 20",
        "median ms of",
        ["due", "expired", "events read"],
    ),
    "expiry": (
        "--sessions 20 --seconds 0.3 --database postgresql",
        "database",
        ["postgresql  +nothing", "postgresql  +expiry", "postgresql  +difference"],
    ),
    "rows": (
        "--rows 6000 --rounds 1",
        "statements of",
        ["list of an owner", "due: leases and deadlines", "expired, a page"],
    ),
    "scaling": (
        "--repeats 1 --processes 1 --sockets 10 --sockets 20 --queued 10 --rows 1000 "
        "--clients 10 --rate 50 --seconds 0.5 --swept 10 --submitted 5",
        "processes",
        [
            "web CPU us of a frame",
            "web memory, kB of a socket",
            "CPU us of a submit",
            "PostgreSQL ms: list of an owner",
        ],
    ),
    "pickup": ("--sessions 3 --idle-seconds 0.3 --mock-seconds 0.1", "sessions", ["3 +3"]),
}


linux = pytest.mark.skipif(
    sys.platform != "linux", reason="the benchmarks read CPU clocks and memory from Linux's /proc"
)


async def run(name: str, options: str) -> str:
    """Return what ``python -m benchmarks NAME`` prints; fail if it fails."""
    status, out, err = await run_python("-m", "benchmarks", name, *options.split(), seconds=SECONDS)
    assert status == 0, err
    return out


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
async def test_benchmark_prints_its_table(name: str) -> None:
    """The machine and the settings come first, then every row."""
    options, head, rows = TINY[name]
    out = await run(name, options)
    described, machine, settings, *rest = out.splitlines()
    rest = [line for line in rest if not line.startswith("# ")]
    assert described.startswith("# ")
    assert "cores" in machine
    assert settings.startswith("# settings: ")
    assert rest[0].startswith(head + "  "), out
    for row in rows:
        assert re.search(rf"^{row}  +\S", out, re.MULTILINE), out


@linux
@pytest.mark.slow
async def test_avalanche_brings_every_client_back() -> None:
    """After a restart and after a crash, each at its session's newest seq."""
    out = await run("avalanche", "--clients 20")
    columns = re.split(r"  +", next(line for line in out.splitlines() if line.startswith("signal")))
    for name in ("SIGTERM", "SIGKILL"):
        figures = re.split(r" {2,}", next(line for line in out.splitlines() if line.startswith(name)))
        printed = dict(zip(columns, figures, strict=True))
        assert (printed["back"], printed["right"]) == ("20", "20"), out


def test_every_benchmark_has_tiny_run() -> None:
    """A new command needs a line in TINY."""
    assert set(main.commands) == {*TINY, "avalanche"}


def test_performance_page_names_every_benchmark() -> None:
    """And every command of the page exists, with its options."""
    named = re.findall(r"python -m benchmarks ([a-z]+)((?: --[a-z-]+ \S+)*)[`\n]", text_of("docs/performance.md"))
    for name, options in named:
        main.commands[name].make_context(name, options.split())
    assert {name for name, _ in named} == set(main.commands)
