"""The tables of the model as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from benchmarks.capacity.inputs import Assumptions, Costs, Prices, described
from benchmarks.capacity.model import Demand, Load, demand, of_day

WAIT_SECONDS: Final = 30
"""Seconds from upload to picture, while there are workers enough."""

QUEUED_SECONDS: Final = 600
"""The same behind a queue: the default of TRYON_DEADLINE_SECONDS."""


def loads(assumed: Assumptions) -> list[Load]:
    """Return the loads of the page."""
    return [
        Load("1 k waiting", 1_000, WAIT_SECONDS),
        of_day("1 M sessions a day", 1_000_000, WAIT_SECONDS, assumed),
        Load("100 k waiting", 100_000, WAIT_SECONDS),
        Load("10 M waiting", 10_000_000, QUEUED_SECONDS),
    ]


def page(costs: Costs, assumed: Assumptions, prices: Prices) -> str:
    """Return all tables: what each load takes, what is full first, and the inputs."""
    found = [demand(load, costs, assumed, prices) for load in loads(assumed)]
    parts = [
        _table(("At the peak", *(each.load.name for each in found)), _quantities(found)),
        _table(
            ("Part (ordered for 10 M waiting)", *(each.load.name for each in found), "Split next into"),
            _bottlenecks(found),
        ),
        _table(("Dollars a month", *(each.load.name for each in found)), _money(found)),
        *(
            _table((name, "Value", "Meaning"), [(f"`{field}`", f"{value:,.10g}", text) for field, value, text in rows])
            for name, rows in (
                ("Measured cost", described(costs)),
                ("Assumption", described(assumed)),
                ("Price", described(prices)),
            )
        ),
    ]
    return "\n".join(parts)


def _quantities(found: Sequence[Demand]) -> Iterable[Sequence[str]]:
    rows: dict[str, Callable[[Demand], float]] = {
        "seconds from upload to picture": lambda each: each.load.wait_seconds,
        "waiting clients": lambda each: each.load.waiting,
        "uploads a second": lambda each: each.load.uploads,
        "frames a second": lambda each: each.frames,
        "installations, by owner": lambda each: each.cells,
        "web processes": lambda each: each.web_processes,
        "cores of the web processes": lambda each: each.web_cores,
        "cores for photos": lambda each: each.image_cores,
        "cores of the workers, without the model": lambda each: each.worker_cores,
        "cores of the expiry": lambda each: each.expiry_cores,
        "cores of the Redis of the news": lambda each: each.news_cores,
        "cores of the Redis of the queue": lambda each: each.queue_cores,
        "cores of PostgreSQL": lambda each: each.database_cores,
        "transactions a second": lambda each: each.transactions,
        "memory of web processes and sockets, GB": lambda each: each.memory_gb,
        "rows of PostgreSQL, GB": lambda each: each.rows_gb,
        "photos and results, GB": lambda each: each.stored_gb,
        "from clients, Mbit/s": lambda each: each.in_mbit,
        "to clients, Mbit/s": lambda each: each.out_mbit,
        "GPUs": lambda each: each.gpus,
    }
    return [(name, *(_short(value(each)) for each in found)) for name, value in rows.items()]


def _bottlenecks(found: Sequence[Demand]) -> Iterable[Sequence[str]]:
    """Return the parts in the order of the largest load, as shares of one."""
    shares = [{single.name: single.share for single in each.singles} for each in found]
    return [
        (single.name, *(_short(each[single.name]) for each in shares), single.split) for single in found[-1].singles
    ]


def _money(found: Sequence[Demand]) -> Iterable[Sequence[str]]:
    rows = [(name, *(_short(each.dollars[name]) for each in found)) for name in found[0].dollars]
    without = [sum(value for name, value in each.dollars.items() if name != "GPUs") for each in found]
    each_session = [
        _short(total / (each.dollars["GPUs"] or 1) * 100) + " %" for total, each in zip(without, found, strict=True)
    ]
    return [
        *rows,
        ("all but GPUs", *(_short(total) for total in without)),
        ("all but GPUs, beside the GPUs", *each_session),
    ]


def _short(value: float) -> str:
    """Return a number with two significant digits, as people read it."""
    if value == 0:
        return "0"
    if value >= 100:
        digits = len(str(int(value))) - 2
        return f"{round(value, -digits):,.0f}"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
