"""``python -m benchmarks.capacity [NAME=VALUE …]``: the tables of the model."""

from __future__ import annotations

import re

import click

from benchmarks.capacity.inputs import Assumptions, Costs, Prices, changed
from benchmarks.capacity.page import page
from testkit.processes import ROOT


@click.command()
@click.argument("changes", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--write", is_flag=True, help="Put the tables into docs/scaling.md, instead of printing them.")
def main(changes: tuple[str, ...], write: bool) -> None:
    """Print what some numbers of waiting clients take.

    NAME=VALUE changes a measured cost, an assumption or a price.
    """
    found: dict[str, float] = {}
    for change in changes:
        name, _, value = change.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise click.BadParameter(f"{change!r} is not NAME=NUMBER") from None
    costs, assumed, prices = changed(Costs(), found), changed(Assumptions(), found), changed(Prices(), found)
    if found:
        raise click.BadParameter(f"there is no {', '.join(found)}")
    text = page(costs, assumed, prices)
    if not write:
        print(text)
        return
    document = ROOT / "docs" / "scaling.md"
    document.write_text(put_into(document.read_text(), text))


def put_into(document: str, tables: str) -> str:
    """Return a page with these tables in place of those between its marks."""
    blocks = iter(tables.split("\n\n"))
    return re.sub(r"(<!-- capacity -->\n)(?:\|.*\n)*", lambda mark: f"{mark[1]}{next(blocks).rstrip()}\n", document)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.capacity")
