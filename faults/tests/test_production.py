"""Every promise is kept in the production form, too: a sample of its rows, and a soak.

All of its rows behind each proxy: ``python -m faults matrix --production nginx``.
"""

from __future__ import annotations

import re

import pytest

from faults import form
from faults.matrix import PRODUCTION_ROWS, ROWS
from faults.rows import production
from faults.tests.conftest import RunRow
from testkit.documents import text_of
from testkit.plugin import note
from testkit.processes import run_python

SAMPLE = [("nginx", "node-killed"), ("haproxy", "redis-killed"), ("caddy", "upload-cut")]
SOAK = (
    "soak --production nginx --sessions 100 --rate 4 --seed 3 --every 5 --lease-seconds 2 --stuck-seconds 25 "
    "--deadline-seconds 30 --retention-seconds 30"
)
SOAK_SECONDS = 170


@pytest.mark.slow
@pytest.mark.xdist_group("soak")
@pytest.mark.parametrize(("balancer", "name"), SAMPLE)
async def test_row_keeps_every_promise_in_production(
    request: pytest.FixtureRequest, run_row: RunRow, balancer: str, name: str
) -> None:
    """Clients see every transition once, and nothing is lost behind each proxy."""
    note(request, "PostgreSQL")
    with form.production(balancer):
        await run_row(PRODUCTION_ROWS[name])


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(SOAK_SECONDS + 5)
async def test_soak_keeps_promises_in_production() -> None:
    """Nothing is lost, stuck, wrong or left over while nodes and servers break."""
    status, out, err = await run_python("-m", "faults", *SOAK.split(), seconds=SOAK_SECONDS)
    print(out, err, sep="\n")
    assert status == 0, out


def test_every_row_applies_or_is_excused() -> None:
    """A row that is excused exists, and none of production's own is."""
    assert production.EXCUSED.keys() < ROWS.keys()
    assert PRODUCTION_ROWS.keys() == (ROWS.keys() - production.EXCUSED.keys()) | production.ROWS.keys()


def test_page_lists_own_rows_and_excused_ones() -> None:
    """docs/production.md has each of them in the words of the code."""
    page = text_of("docs/production.md")
    own = dict(re.findall(r"^\| (.+?) \| .*`--only ([a-z-]+)` \|$", page, re.M))
    assert {name: fault for fault, name in own.items()} == {name: row.fault for name, row in production.ROWS.items()}
    assert dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", page, re.M)) == production.EXCUSED
