"""``python -m benchmarks push``: the list of benchmarks, and their options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import uvloop

from . import avalanche, collecting, delivery, fanout, holding, pickup, soak, starting, uploads, waiting


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Measure the product as it is: real server, worker, database, Valkey and sockets, on this machine."""


@main.command("push")
@click.option("--clients", default=100, help="Sessions, each followed by one WebSocket.")
@click.option("--rate", default=20.0, help="Sessions a second that are taken up, and end.")
@click.option("--seconds", default=10.0, help="Length of a round.")
@click.option("--rounds", default=3, help="How often; the median of the rounds is printed too.")
@click.option("--mock-seconds", default=1.0, help="How long the mock works on each session, about.")
@click.option("--storm", default=0, help="Connections over which 12-megapixel photos are uploaded meanwhile.")
def push_command(clients: int, rate: float, seconds: float, rounds: int, mock_seconds: float, storm: int) -> None:
    """From a transition's commit to its frame on a client's socket."""
    uvloop.run(
        delivery.main(
            clients=clients, rate=rate, seconds=seconds, rounds=rounds, mock_seconds=mock_seconds, storm=storm
        )
    )


@main.command("fanout")
@click.option("--clients", default=1000, help="Sockets of the one session.")
@click.option("--rate", default=20.0, help="Events a second.")
@click.option("--seconds", default=10.0)
def fanout_command(clients: int, rate: float, seconds: float) -> None:
    """One event to many clients: CPU per delivery, beside plain Starlette."""
    uvloop.run(fanout.main(clients=clients, rate=rate, seconds=seconds))


@main.command("idle")
@click.option("--clients", default=1000)
@click.option("--seconds", default=50.0, help="How long they are watched; better a multiple of --ping-seconds.")
@click.option("--ping-seconds", default=25.0)
@click.option("--queued", is_flag=True, help="Their sessions wait for a worker, instead of being processed.")
def idle_command(clients: int, seconds: float, ping_seconds: float, queued: bool) -> None:
    """Connected clients without news: memory and CPU of each, beside plain Starlette."""
    uvloop.run(holding.idle(clients=clients, seconds=seconds, ping_seconds=ping_seconds, queued=queued))


@main.command("connect")
@click.option("--clients", default=1000)
@click.option("--rounds", default=3)
def connect_command(clients: int, rounds: int) -> None:
    """Letting a client in, credentials and snapshot included: CPU and time, beside plain Starlette."""
    uvloop.run(holding.connect(clients=clients, rounds=rounds))


@main.command("waiting")
@click.option("--clients", default=500)
@click.option("--seconds", default=20.0)
@click.option("--poll-seconds", default=2.0)
@click.option("--news-seconds", default=5.0, help="Each session has news so often.")
def waiting_command(clients: int, seconds: float, poll_seconds: float, news_seconds: float) -> None:
    """A waiting client-minute, by push and by polling."""
    uvloop.run(waiting.main(clients=clients, seconds=seconds, poll_seconds=poll_seconds, news_seconds=news_seconds))


@main.command("upload")
@click.option("--seconds", default=8.0, help="Length of each measurement.")
@click.option("--connections", multiple=True, default=(1, 8))
@click.option("--size", "sizes", multiple=True, type=click.Choice(["small", "large"]), default=("small", "large"))
def upload_command(seconds: float, connections: tuple[int, ...], sizes: tuple[str, ...]) -> None:
    """Uploads of 196 kB and of 12 megapixels: rate, latency and CPU, beside Pillow alone."""
    uvloop.run(uploads.main(seconds=seconds, connections=connections, sizes=sizes))


@main.command("pickup")
@click.option("--sessions", default=200)
@click.option("--rate", default=10.0, help="Uploads a second.")
@click.option("--idle-seconds", default=20.0)
@click.option("--mock-seconds", default=0.3)
def pickup_command(sessions: int, rate: float, idle_seconds: float, mock_seconds: float) -> None:
    """From an accepted upload to a worker that has started; CPU of an idle worker."""
    uvloop.run(pickup.main(sessions=sessions, rate=rate, idle_seconds=idle_seconds, mock_seconds=mock_seconds))


@main.command("avalanche")
@click.option("--clients", default=1000)
def avalanche_command(clients: int) -> None:
    """Everybody comes back after a restart and after a crash: how long it takes, and whether all is right."""
    uvloop.run(avalanche.main(clients=clients))


@main.command("start")
@click.option("--starts", default=3)
def start_command(starts: int) -> None:
    """From the command to a server that is ready; memory of the idle stack."""
    uvloop.run(starting.main(starts=starts))


@main.command("collect")
@click.option("--clients", default=10000)
def collect_command(clients: int) -> None:
    """How long the garbage collector holds up a process with so many clients."""
    uvloop.run(collecting.main(clients=clients))


@main.command("soak")
@click.option("--sessions", default=10_000)
@click.option("--rate", default=20.0, help="Sessions a second.")
@click.option("--seed", default=1, help="Draws who does what, and the order of the faults.")
@click.option("--every", default=12.0, help="Seconds from fault to fault; things stay broken in proportion.")
@click.option("--lease-seconds", default=5.0)
@click.option("--deadline-seconds", default=60.0)
@click.option("--retention-seconds", default=90.0, help="How long a session lives; the run ends when all are gone.")
@click.option("--stale-seconds", default=5.0, help="The latest that a connected client may be shown a transition.")
@click.option("--stuck-seconds", default=30.0, help="The longest that a session may stand still before its end.")
@click.option("--database", type=click.Choice(["sqlite", "postgresql"]), default="sqlite")
@click.option("--only", multiple=True, help="This kind of fault alone, with underscores: web_killed.")
@click.option(
    "--record", type=click.Path(dir_okay=False, path_type=Path), help="Write what everybody saw to this file."
)
def soak_command(database: str, **options: Any) -> None:
    """Sessions without end while everything breaks: nothing lost, stuck, wrong, seen by another or left over."""
    verdict = soak.main(soak.Soak(postgres=database == "postgresql", **options))
    sys.exit(1 if verdict.findings else 0)


@main.command("faults")
@click.option("--only", multiple=True, metavar="NAME", help="A row, or the beginning of its name; may be repeated.")
@click.option("--seeds", default=1, help="How often each row is run; each time the load is another.")
@click.option("--scaled", is_flag=True, help="Shorter faults and leases, as the tests run them.")
@click.option("--list", "listed", is_flag=True, help="Print the rows and what happens in each.")
def faults_command(only: tuple[str, ...], seeds: int, scaled: bool, listed: bool) -> None:
    """Break one thing after the other under load: what clients see, how stale they get, how long recovery takes."""
    from .faults import matrix

    if listed:
        click.echo(matrix.listing())
    elif not uvloop.run(matrix.main(only=only, seeds=seeds, scaled=scaled)):
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
