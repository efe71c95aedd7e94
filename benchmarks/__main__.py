"""``python -m benchmarks push``: the list of benchmarks, and their options."""

from __future__ import annotations

from typing import Any

import click
import uvloop

from benchmarks import (
    attack,
    avalanche,
    chores,
    collecting,
    delivery,
    expiring,
    fanout,
    holding,
    pickup,
    rows,
    starting,
    uploads,
    waiting,
)
from benchmarks.scaling import command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Measure the product as it is, on this machine.

    Server, worker, database, Valkey and sockets are real.
    """


@main.command("push")
@click.option("--clients", default=100, help="Sessions, each followed by one WebSocket.")
@click.option("--rate", default=20.0, help="Sessions a second that are claimed, and end.")
@click.option("--seconds", default=10.0, help="Length of a round.")
@click.option("--rounds", default=3, help="How often; the median of the rounds is printed too.")
@click.option("--mock-seconds", default=1.0, help="How long the mock works on each session, about.")
@click.option("--storm", default=0, help="Connections over which 12-megapixel photos are uploaded meanwhile.")
def push_command(clients: int, rate: float, seconds: float, rounds: int, mock_seconds: float, storm: int) -> None:
    """Measure from a transition's commit to its frame on a client's socket."""
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
    """Measure one event to many clients: CPU per delivery, beside plain Starlette."""
    uvloop.run(fanout.main(clients=clients, rate=rate, seconds=seconds))


@main.command("idle")
@click.option("--clients", default=1000)
@click.option("--seconds", default=50.0, help="How long they are watched; better a multiple of --ping-seconds.")
@click.option("--ping-seconds", default=25.0)
@click.option("--queued", is_flag=True, help="Their sessions wait for a worker, instead of being processed.")
def idle_command(clients: int, seconds: float, ping_seconds: float, queued: bool) -> None:
    """Measure memory and CPU of connected clients without news, beside Starlette."""
    uvloop.run(holding.idle(clients=clients, seconds=seconds, ping_seconds=ping_seconds, queued=queued))


@main.command("connect")
@click.option("--clients", default=1000)
@click.option("--rounds", default=3)
def connect_command(clients: int, rounds: int) -> None:
    """Measure CPU and time of a connect, with credentials and snapshot.

    Plain Starlette stands beside it.
    """
    uvloop.run(holding.connect(clients=clients, rounds=rounds))


@main.command("waiting")
@click.option("--clients", default=500)
@click.option("--seconds", default=20.0)
@click.option("--poll-seconds", default=2.0)
@click.option("--news-seconds", default=5.0, help="Each session has news so often.")
def waiting_command(clients: int, seconds: float, poll_seconds: float, news_seconds: float) -> None:
    """Measure a waiting client-minute, by push and by polling."""
    uvloop.run(waiting.main(clients=clients, seconds=seconds, poll_seconds=poll_seconds, news_seconds=news_seconds))


@main.command("upload")
@click.option("--seconds", default=8.0, help="Length of each measurement.")
@click.option("--connections", multiple=True, default=(1, 8))
@click.option("--size", "sizes", multiple=True, type=click.Choice(["small", "large"]), default=("small", "large"))
def upload_command(seconds: float, connections: tuple[int, ...], sizes: tuple[str, ...]) -> None:
    """Measure uploads of 196 kB and of 12 megapixels: rate, latency and CPU.

    Pillow alone stands beside them.
    """
    uvloop.run(uploads.main(seconds=seconds, connections=connections, sizes=sizes))


@main.command("attack")
@click.option("--uploads", default=30, help="Honest uploads alone, and as many under attack; at most 60.")
@click.option("--every", default=0.0, help="Seconds from one honest upload to the next; 0: without a pause.")
@click.option("--size", "sizes", multiple=True, type=click.Choice(["small", "large"]), default=("small", "large"))
@click.option("--megapixels", default=40.0, help="Size of the attacker's picture when it is decoded.")
def attack_command(uploads: int, every: float, sizes: tuple[str, ...], megapixels: float) -> None:
    """Measure honest uploads alone, and while one address attacks with photos.

    The attacker uploads tiny files that take seconds to decode, at the full rate.
    """
    uvloop.run(attack.main(uploads=uploads, every=every, sizes=sizes, megapixels=megapixels))


@main.command("pickup")
@click.option("--sessions", default=200)
@click.option("--rate", default=10.0, help="Uploads a second.")
@click.option("--idle-seconds", default=20.0)
@click.option("--mock-seconds", default=0.3)
def pickup_command(sessions: int, rate: float, idle_seconds: float, mock_seconds: float) -> None:
    """Measure from an accepted upload to a started worker; and an idle worker."""
    uvloop.run(pickup.main(sessions=sessions, rate=rate, idle_seconds=idle_seconds, mock_seconds=mock_seconds))


@main.command("avalanche")
@click.option("--clients", default=1000)
def avalanche_command(clients: int) -> None:
    """Measure how long all clients take to reconnect after a restart and a crash.

    Each must then be at the newest event of its session.
    """
    uvloop.run(avalanche.main(clients=clients))


@main.command("start")
@click.option("--starts", default=3)
def start_command(starts: int) -> None:
    """Measure from the command to a ready server; and memory of the idle stack."""
    uvloop.run(starting.main(starts=starts))


@main.command("collect")
@click.option("--clients", default=10000)
def collect_command(clients: int) -> None:
    """Measure the pauses of Python's garbage collector with this many clients."""
    uvloop.run(collecting.main(clients=clients))


@main.command("chores")
@click.option("--living", default=200_000, help="Sessions whose retention has not ended.")
@click.option("--waiting", default=1000, help="How many of them wait for a worker.")
@click.option("--running", default=100_000, help="How many of them are being processed.")
@click.option("--rounds", default=21, help="How often each read is made; the median is printed.")
@click.option("--events", default=2000, help="Events committed while a foreign transaction is open.")
def chores_command(living: int, waiting: int, running: int, rounds: int, events: int) -> None:
    """Measure what is read every few seconds, beside this many living sessions.

    On SQLite and PostgreSQL.
    """
    uvloop.run(chores.main(living=living, waiting=waiting, running=running, rounds=rounds, events=events))


@main.command("expiry")
@click.option("--sessions", default=20_000, help="Sessions that have expired, with a photo each.")
@click.option("--seconds", default=4.0, help="Length of a window, with the expiry and without it.")
@click.option(
    "--database",
    "databases",
    multiple=True,
    type=click.Choice(["sqlite", "postgresql"]),
    default=("sqlite", "postgresql"),
)
def expiry_command(sessions: int, seconds: float, databases: tuple[str, ...]) -> None:
    """Measure what a transition waits for while many sessions expire.

    In one process, on SQLite and PostgreSQL. Windows with the expiry and without it
    take turns; the last line of each database is their difference.
    """
    uvloop.run(expiring.main(sessions=sessions, seconds=seconds, databases=databases))


@main.command("rows")
@click.option("--rows", "count", default=1_000_000, help="Sessions, each with an event and a file: 1 GB a million.")
@click.option("--rounds", default=11, help="How often each statement is run; the median is printed.")
def rows_command(count: int, rounds: int) -> None:
    """Measure the statements that recur beside this many sessions, on PostgreSQL.

    Ten million take some minutes and 10 GB.
    """
    uvloop.run(rows.main(rows=count, rounds=rounds))


@main.command("scaling")
@click.option("--part", "parts", multiple=True, type=click.Choice(command.PARTS), default=command.PARTS)
@click.option("--repeats", default=3, help="How often each size is measured; medians are printed.")
@click.option("--processes", multiple=True, default=(1, 2, 4), help="Web processes, each with its own clients.")
@click.option("--sockets", multiple=True, default=(1000, 2000, 4000, 8000, 16_000, 32_000), help="Sockets.")
@click.option("--queued", multiple=True, default=(10, 100, 1000, 10_000), help="Sessions that wait for a worker.")
@click.option("--rows", multiple=True, default=tuple(10**n for n in range(3, 8)), help="Stored sessions.")
@click.option("--clients", default=1000, help="Clients of each process while their number grows.")
@click.option("--rate", default=2000.0, help="Frames a second: of each process, and of all sockets.")
@click.option("--seconds", default=4.0, help="Length of each measurement of frames, and time between two pings.")
@click.option("--swept", default=20_000, help="Transitions that all processes read.")
@click.option(
    "--submitted", default=50, help="Sessions that are submitted, and picked up, at each length of the queue."
)
@click.option("--few", default=100, help="Stored sessions that are due, wait or have expired.")
def scaling_command(parts: tuple[str, ...], repeats: int, **sizes: Any) -> None:
    """Measure how costs grow, and the exponent of each.

    With processes, sockets, waiting sessions and stored sessions.
    """
    uvloop.run(command.main(parts, command.Sizes(**sizes), repeats=repeats))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
