"""docs/sizing.md: its figures follow from those of docs/performance.md."""

from __future__ import annotations

import re
import shlex
from typing import Final

import pytest

from testkit.documents import text_of
from testkit.processes import ROOT

PAGE: Final = text_of("docs/sizing.md")
MEASURED: Final = text_of("docs/performance.md")


def figure(pattern: str) -> float:
    """Return a figure of the page with the measurements."""
    found = re.search(pattern, MEASURED)
    assert found, pattern
    return float(found[1])


def table(first_column: str) -> dict[int, list[str]]:
    """Return the rows of a table by the number in their first column."""
    found = re.search(rf"^\| {first_column} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found, first_column
    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in found[1].splitlines()]
    return {int(row[0].replace(",", "")): row[1:] for row in rows}


def cores(text: str) -> float:
    """Return the cores of a cell: ``3.2 % of a core``, ``39 cores``."""
    number, unit = text.split(maxsplit=1)
    return float(number) / (100 if unit.startswith("%") else 1)


def test_waiting_clients_cost_what_was_measured() -> None:
    """CPU and memory grow with the clients, from one measured client."""
    minute_ms = figure(r"waiting client-minute, CPU .* \((\d\.\d) ms, ")
    kilobytes = figure(r"memory per idle connection at 10,000 \(PSS\) .* \d\.\d-(\d\.\d) KB")
    connect_ms = figure(r"CPU per connect, .* 0\.\d\d-(\d\.\d\d) ms")
    back_seconds = figure(r"10,000 clients are back after a restart .* (\d\.\d) s, all right")
    for clients, (cpu, memory, descriptors, back) in table("Waiting clients").items():
        assert cores(cpu) == pytest.approx(clients * minute_ms / 60_000, rel=0.06), clients
        assert float(memory.split()[0]) == pytest.approx(clients * kilobytes / 1000, rel=0.25), clients
        assert int(descriptors.replace(",", "")) == clients
        assert float(back.split()[0]) == pytest.approx(clients * connect_ms / 1000, rel=0.05), clients
    assert f"within {back_seconds:g} s" in PAGE
    base, times = figure(r"ready; idle stack of .*; (\d+) MB"), figure(r"waiting client-minute, CPU .* 1/(\d+) ")
    assert f"The base is {base:g} MB" in PAGE
    assert f"cost {times:g} times the CPU" in PAGE


def test_photos_cost_what_was_measured() -> None:
    """A small photo twice what Pillow takes, a large one its part of a full machine."""
    pillow_ms = figure(r"A small photo takes Pillow\s+(\d+) ms")
    times = figure(r"beside Pillow alone .* \*\*1\.\d-(\d\.\d) x\*\*")
    large_seconds = 2 / figure(r"at (\d\.\d) photos a second")
    rows = table("Photos per minute")
    assert list(rows) == [10, 100, 1000, 10_000]
    for photos, (small, large) in rows.items():
        assert cores(small) == pytest.approx(photos * pillow_ms * times / 60_000, rel=0.15), photos
        assert cores(large) == pytest.approx(photos * large_seconds / 60, rel=0.06), photos


def test_machines_have_a_fifth_of_their_cores_free() -> None:
    """The sum of clients and uploads, from the two tables above."""
    waiting, uploads = table("Waiting clients"), table("Photos per minute")
    rows = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| (\d+) cores?", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for clients, photos, found in rows:
        busy = cores(waiting[int(clients.replace(",", ""))][0]) + cores(uploads[int(photos.replace(",", ""))][1])
        assert 0 <= int(found) - busy / 0.8 <= 1.01, (clients, photos)


def test_commands_that_measure_exist() -> None:
    """Each command names a benchmark, with options that it has."""
    found = re.search(r"<!-- commands -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert found
    lines = [shlex.split(line, comments=True) for line in found[1].splitlines()]
    assert len(lines) == 7
    commands = (ROOT / "benchmarks" / "__main__.py").read_text().split('@main.command("')[1:]
    options = {text.partition('"')[0]: set(re.findall(r'option\("(--[\w-]+)"', text)) for text in commands}
    for line in lines:
        assert line[:3] == [".venv/bin/python", "-m", "benchmarks"]
        assert line[3] in options, line
        assert set(line[4::2]) <= options[line[3]], line
