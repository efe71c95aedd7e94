"""``python -m benchmarks push``: the list of benchmarks, and their options."""

from __future__ import annotations

import asyncio

import click

from . import delivery


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Measure the product as it is: real server, worker, database, Valkey and sockets, on this machine."""


@main.command("push")
@click.option("--clients", default=100, help="Sessions, each followed by one WebSocket.")
@click.option("--rounds", default=3, help="How often; the medians of the rounds are printed too.")
@click.option("--mock-seconds", default=1.0, help="How long the mock works on each session.")
def push_command(clients: int, rounds: int, mock_seconds: float) -> None:
    """From a transition's commit to its frame on a client's socket."""
    asyncio.run(delivery.main(clients=clients, rounds=rounds, mock_seconds=mock_seconds))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
