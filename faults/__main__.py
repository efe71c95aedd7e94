"""``python -m faults matrix``, ``python -m faults soak``, ``python -m faults hostile``.

The first two break things under load, the third sends what nothing honest would send;
all check every promise.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import uvloop

from faults.soak.plan import Soak
from faults.soak.run import main as run_soak
from testkit.balancers import KINDS


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Break the product as it is, on this machine.

    Servers, workers, databases, Valkey and sockets are real.
    """


@main.command("soak")
@click.option("--sessions", default=10_000)
@click.option("--rate", default=20.0, help="Sessions a second.")
@click.option("--seed", default=1, help="Draws the actions of clients and the order of faults.")
@click.option("--every", default=12.0, help="Seconds from fault to fault; things stay broken in proportion.")
@click.option("--lease-seconds", default=5.0)
@click.option("--deadline-seconds", default=60.0)
@click.option("--retention-seconds", default=90.0, help="How long a session lives; the run ends when all are gone.")
@click.option("--stale-seconds", default=5.0, help="The latest that a connected client may be shown a transition.")
@click.option("--stuck-seconds", default=30.0, help="The longest that a session may stand still before its end.")
@click.option("--database", type=click.Choice(["sqlite", "postgresql"]), default="sqlite")
@click.option("--production", type=click.Choice(KINDS), help="The production form behind this proxy.")
@click.option("--calm", is_flag=True, help="No fault at all: the load alone.")
@click.option("--only", multiple=True, help="This kind of fault alone, with underscores: web_killed.")
@click.option(
    "--record", type=click.Path(dir_okay=False, path_type=Path), help="Write the sights of all clients to this file."
)
def soak_command(database: str, **options: Any) -> None:
    """Run sessions without end while everything breaks.

    Nothing may be lost, stuck, wrong, seen by another client or left over.
    """
    verdict = run_soak(Soak(postgres=database == "postgresql", **options))
    sys.exit(1 if verdict.findings else 0)


@main.command("matrix")
@click.option("--only", multiple=True, metavar="NAME", help="A row, or the beginning of its name; may be repeated.")
@click.option("--seeds", default=1, help="How often each row is run; each time the load is another.")
@click.option("--scaled", is_flag=True, help="Shorter faults and leases, as the tests run them.")
@click.option("--list", "listed", is_flag=True, help="Print the rows and the fault of each.")
@click.option("--production", type=click.Choice(KINDS), help="The production form behind this proxy.")
def matrix_command(only: tuple[str, ...], seeds: int, scaled: bool, listed: bool, production: str | None) -> None:
    """Break one thing after the other under load.

    The table shows what clients see, how stale they get, and how long recovery takes.
    """
    from faults import matrix

    if listed:
        click.echo(matrix.listing(in_production=production is not None))
    elif not uvloop.run(matrix.main(only=only, seeds=seeds, scaled=scaled, balancer=production)):
        raise SystemExit(1)


@main.command("hostile")
@click.option("--inputs", default=1_000_000, help="Damaged photos for the image processes.")
@click.option("--requests", default=10_000, help="Damaged photos, forms, requests and frames over HTTP.")
@click.option("--seed", default=1, help="Draws all damage; a finding is repeated by its seed and number.")
@click.option("--first", default=0, help="Number to begin with: --seed S --first N --inputs 1 repeats finding S/N.")
@click.option("--slow", is_flag=True, help="Hold connections and send nonsense beside a canary instead.")
def hostile_command(inputs: int, requests: int, seed: int, first: int, slow: bool) -> None:
    """Send hostile inputs to image processes and to a server.

    Nothing may crash, answer 5xx or leak: the last line says how often each happened.
    """
    from faults.hostile import run
    from faults.hostile import slow as attacks

    verdict = uvloop.run(attacks.run() if slow else run.main(inputs=inputs, requests=requests, seed=seed, first=first))
    sys.exit(0 if verdict.clean else 1)


if __name__ == "__main__":
    main(prog_name="python -m faults")
