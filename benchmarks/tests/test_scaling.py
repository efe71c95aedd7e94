"""docs/scaling.md: exponents follow from points, the model's costs from figures."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from benchmarks.__main__ import main
from benchmarks.capacity.inputs import Costs
from benchmarks.scaling.command import PARTS
from benchmarks.scaling.curves import Goal, exponent_of
from testkit.documents import text_of

PAGE: Final = text_of("docs/scaling.md")
FIGURES: Final = text_of("docs/performance.md")
COSTS: Final = Costs()


@dataclass(frozen=True)
class Line:
    """A row of a table of curves."""

    part: str
    cost: str
    points: dict[int, float]
    exponent: str
    last: str
    goal: str

    @property
    def missed(self) -> bool:
        return self.goal.endswith(", missed")


def lines() -> Iterator[Line]:
    """Yield the rows of all tables of curves."""
    for part, head, rows in re.findall(r"<!-- scaling: (\w+) -->\n\| (.*)\n\|[-| ]+\n((?:\|.*\n)+)", PAGE):
        sizes = [int(each.replace(",", "")) for each in head.strip(" |").split(" | ")[1:-3]]
        for row in rows.splitlines():
            cost, *values, exponent, last, goal = row.strip("| ").split(" | ")
            points = dict(zip(sizes, (float(each.replace(",", "")) for each in values), strict=True))
            yield Line(part, cost, points, exponent.strip("*"), last, goal)


def at(part: str, cost: str, size: int) -> float:
    """Return a figure of the page."""
    (found,) = [line for line in lines() if line.part == part and line.cost == cost]
    return found.points[size]


def figure(pattern: str) -> float:
    """Return a figure of the page of measurements."""
    found = re.search(pattern, FIGURES)
    assert found, pattern
    return float(found[1])


def test_page_has_a_table_of_each_part() -> None:
    """And each grows by four sizes at least, processes by three."""
    found = list(lines())
    assert {line.part for line in found} == set(PARTS)
    assert all(len(line.points) >= (3 if line.part == "processes" else 4) for line in found)


@pytest.mark.parametrize("line", list(lines()), ids=lambda line: f"{line.part}: {line.cost}")
def test_exponent_is_that_of_its_points(line: Line) -> None:
    """Compare the printed exponent and its verdict with those of the printed points."""
    found = exponent_of(line.points)
    assert float(line.exponent) == pytest.approx(found, abs=0.03)
    last = exponent_of(dict(list(line.points.items())[-2:]))
    assert float(line.last) == pytest.approx(last, abs=0.03)
    goal = Goal(line.goal.removesuffix(", missed"))
    assert line.missed is not goal.met_by(float(line.exponent))


def test_every_miss_has_its_reason() -> None:
    """A row of its own in the list of misses, by the words of its table."""
    explained = PAGE.partition("### What misses its goal\n")[2].partition("\n## ")[0]
    missed = {line.cost for line in lines() if line.missed}
    assert missed == set(re.findall(r"^- \*([^*]+)\*", explained, re.MULTILINE))


def test_costs_of_the_model_are_those_of_the_curves() -> None:
    """At the size that the model's processes have, or the largest."""
    run = at("queued", "CPU us of a session's run with the session's own process", 10_000)
    queue, database = (
        sum(
            at("queued", f"{server} CPU us of {what}", 10_000) for what in ("a submit", "a session's run", "a deletion")
        )
        for server in ("Valkey", "PostgreSQL")
    )
    expected = {
        "frame_us": at("processes", "web CPU us of a frame", 4),
        "news_us": at("processes", "Valkey CPU us of a frame", 4)
        + at("queued", "Valkey CPU us of a report of progress", 10_000),
        "swept_us": at("processes", "web CPU us of a transition without a follower, all processes", 4) / 4,
        "ping_us": at("sockets", "web CPU us of a ping and its pong, with all that recurs", 16_000),
        "connect_us": at("sockets", "web CPU us of a connect", 16_000),
        "place_us": at("queued", "CPU us to read the places of all", 10_000) / 10_000,
        "run_us": run,
        "queue_us": queue,
        "database_us": database,
    }
    found = {name: getattr(COSTS, name) for name in expected}
    assert found == pytest.approx(expected, rel=0.05)


def test_costs_of_the_model_are_those_of_the_figures() -> None:
    """Compare them with docs/performance.md: with the larger end of a range."""
    assert COSTS.socket_kb == figure(r"memory per idle connection at 10,000 \(PSS\) .* \d\.\d-(\d\.\d) KB")
    assert COSTS.upload_us == 1000 * figure(r"CPU per upload of 196 kB .* \*\*(\d\.\d) ms\*\* eight")
    assert COSTS.process_mb == figure(r"ready; idle stack of .*; (\d+) MB")
    assert COSTS.expired_a_second == figure(r"PostgreSQL: .* (\d+) sessions removed a second\. SQLite")
    assert COSTS.photo_us == pytest.approx(2e6 / figure(r"at (\d\.\d) photos a second"), rel=0.02)


def test_prediction_is_that_of_the_model() -> None:
    """From frames and pings; measured figures are those of docs/performance.md."""
    found = re.search(r"<!-- predicted -->\n.*\n.*\n((?:\|.*\n)+)", PAGE)
    assert found
    rows = [row.strip("| ").split(" | ") for row in found[1].splitlines()]
    minute_ms = figure(r"waiting client-minute, CPU .* \((\d\.\d) ms, ")
    expected = [figure(r"idle CPU with 10,000 clients .* 1\.2-(\d\.\d) % of a core"), 500 * minute_ms / 600]
    for rate, start in (
        ("5,000", "CPU per message, 1,000 clients, 5,000/s"),
        ("20,000", "20,000/s"),
        ("80,000", "80,000/s"),
    ):
        expected.append(float(rate.replace(",", "")) * figure(rf"\n\| {start} \| (\d+\.\d) us") / 1e4)
    for (_, frames, pings, model, measured, ratio, _), value in zip(rows, expected, strict=True):
        rates = [float(each.replace(",", "")) for each in (frames, pings)]
        predicted = (rates[0] * COSTS.frame_us + rates[1] * COSTS.ping_us) / 1e4
        assert float(model) == pytest.approx(predicted, rel=0.03)
        assert float(measured) == pytest.approx(value, rel=0.05)
        assert float(ratio) == pytest.approx(value / predicted, abs=0.06)


def test_commands_of_the_page_exist() -> None:
    """With the options that they are given."""
    named = re.findall(r"python -m benchmarks (scaling[^`]*)`", PAGE)
    assert len(named) >= 5
    for command in named:
        name, *options = shlex.split(command)
        main.commands[name].make_context(name, options)
    for _, name, options in re.findall(r"^\| `(\w+)` \| [\d,.]+ \| .*: `(\w+)((?: --[\w-]+ \w+)*)` \|$", PAGE, re.M):
        main.commands[name].make_context(name, shlex.split(options))
