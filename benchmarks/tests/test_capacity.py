"""The capacity model: its laws, and that docs/scaling.md shows what it prints."""

from __future__ import annotations

import re
from dataclasses import asdict, replace

import pytest
from click.testing import CliRunner

from benchmarks.capacity.__main__ import main, put_into
from benchmarks.capacity.inputs import Assumptions, Costs, Prices
from benchmarks.capacity.model import Demand, Load, demand, of_day
from benchmarks.capacity.page import page
from testkit.documents import text_of

COSTS = Costs()
ASSUMED = Assumptions()
PRICES = Prices()


def at(waiting: float, *, wait_seconds: float = 30, costs: Costs = COSTS, assumed: Assumptions = ASSUMED) -> Demand:
    """Return what these clients take."""
    return demand(Load("test", waiting, wait_seconds), costs, assumed, PRICES)


def test_waiting_clients_follow_littles_law() -> None:
    """A million a day: 34.7 a second in a peak of three times the mean; 1,042 wait."""
    load = of_day("day", 1_000_000, 30, Assumptions(peak=3))
    assert load.uploads == pytest.approx(34.72, abs=0.01)
    assert load.waiting == pytest.approx(1042, abs=1)


def test_small_load_is_worked_by_hand() -> None:
    """Compute each cost of ten uploads a second: 300 clients that wait 30 s each."""
    costs = replace(COSTS, photo_us=200_000, news_us=20, queue_us=1000, database_us=5000, row_bytes=2000)
    assumed = replace(ASSUMED, news_seconds=5, transitions=3, photos=2, peak=2, retention_days=1, model_seconds=14)
    found = at(300, costs=costs, assumed=replace(assumed, busy=0.7))
    assert found.frames == 300 / 5 + 30
    assert found.image_cores == pytest.approx(4)
    assert found.news_cores == pytest.approx(90 * 20e-6)
    assert found.queue_cores == pytest.approx(0.01)
    assert found.database_cores == pytest.approx(0.05)
    assert found.gpus == pytest.approx(200)
    assert found.expiry_cores == pytest.approx(10 / COSTS.expired_a_second)
    assert found.rows_gb == pytest.approx(5 * 86_400 * 2000 / 1e9)
    assert (found.cells, found.web_processes) == (1, 1)


def test_rates_grow_with_the_clients() -> None:
    """Ten times the clients take ten times of everything that is not a whole number."""
    small, large = at(100), at(1000)
    for name in ("frames", "image_cores", "news_cores", "queue_cores", "database_cores", "stored_gb", "out_mbit"):
        assert getattr(large, name) == pytest.approx(10 * getattr(small, name)), name


def test_part_that_is_full_splits_the_installation() -> None:
    """Into as many as hold each part below its bound, but for those split alone."""
    costs = replace(COSTS, expired_a_second=100, swept_us=0, queue_us=0, database_us=0, place_us=0)
    found = at(9_000, costs=costs, assumed=replace(ASSUMED, peak=3, busy=1))
    assert found.singles[0].name.startswith("expiry")
    assert found.singles[0].share == pytest.approx(3)
    assert found.cells == 3
    assert found.web_processes >= 3


def test_queue_holds_those_that_no_gpu_works_on() -> None:
    """Queue 50,000 of 60,000 sessions: the GPUs work on 10,000 of them."""
    assumed = replace(ASSUMED, model_seconds=10, pause_ms=100)
    found = at(60_000, wait_seconds=60, costs=replace(COSTS, place_us=4), assumed=assumed)
    (queue,) = [each for each in found.singles if each.name.startswith("the queue")]
    assert queue.share == pytest.approx(2)


def test_redis_of_the_news_is_split_by_itself() -> None:
    """Sharded pub/sub exists, so it makes no second installation."""
    costs = replace(COSTS, news_us=10_000, expired_a_second=1e9, swept_us=0, queue_us=0, database_us=0, place_us=0)
    found = at(100_000, costs=costs)
    assert found.singles[0].name.startswith("Redis of the news")
    assert found.singles[0].share > 1
    assert found.cells == 1


def test_transitions_are_read_by_each_web_process() -> None:
    """Expect more than ten times the web cores for ten times the clients."""
    costs = replace(COSTS, swept_us=60, expired_a_second=1e9, queue_us=0, database_us=0, place_us=0)
    few, many = at(5_000, costs=costs), at(50_000, costs=costs)
    assert few.cells == many.cells == 1
    assert many.web_cores > 11 * few.web_cores


def test_sockets_of_a_process_bound_its_clients() -> None:
    """Limit the clients of a process by its sockets, even if they cost nothing."""
    costs = replace(COSTS, **{name: 0 for name in asdict(COSTS) if name.endswith("_us")}, expired_a_second=1e9)
    assert at(100_000, costs=costs, assumed=replace(ASSUMED, sockets_a_process=15_000)).web_processes == 7


def test_money_follows_the_prices() -> None:
    """Twice the price of a GPU doubles that line alone."""
    load = Load("test", 1000, 30)
    before = demand(load, COSTS, ASSUMED, PRICES).dollars
    after = demand(load, COSTS, ASSUMED, replace(PRICES, gpu_hour=2 * PRICES.gpu_hour)).dollars
    assert after.pop("GPUs") == pytest.approx(2 * before.pop("GPUs"))
    assert after == before


def test_tables_of_the_page_are_what_the_model_prints() -> None:
    """``python -m benchmarks.capacity --write`` puts them there."""
    document = text_of("docs/scaling.md")
    tables = page(COSTS, ASSUMED, PRICES)
    assert document.count("<!-- capacity -->") == len(tables.strip().split("\n\n"))
    assert put_into(document, tables) == document


def test_command_changes_an_input_by_its_name() -> None:
    """The table of inputs shows the new value."""
    result = CliRunner().invoke(main, ["model_seconds=2.5", "core_month=18"])
    assert result.exit_code == 0, result.output
    assert re.search(r"`model_seconds` \| 2\.5 \|", result.output)
    assert re.search(r"`core_month` \| 18 \|", result.output)


@pytest.mark.parametrize("wrong", ["core_moon=18", "core_month=cheap", "core_month"])
def test_command_refuses_an_input_it_does_not_know(wrong: str) -> None:
    """And names it."""
    result = CliRunner().invoke(main, [wrong])
    assert result.exit_code != 0
    assert wrong.partition("=")[0] in result.output
