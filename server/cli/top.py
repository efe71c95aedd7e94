"""The command that shows what lives in a server now: ``top``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from server.cli import arguments
from tryon.client.address import DEFAULT_URL


@click.command()
@click.option(
    "--server",
    "--url",
    "server",
    default=DEFAULT_URL,
    show_default=True,
    callback=arguments.address,
    help="Address of the server.",
)
@click.option(
    "--token-file",
    type=arguments.FILE,
    help="File of the operator's token.  [default: the variable TRYON_OPS_TOKEN]",
)
@click.option("--once", is_flag=True, help="Print what is there now, and end.")
@arguments.JSON
def top(server: str, token_file: Path | None, once: bool, as_json: bool) -> None:
    """Show sessions, queue, workers and connections of a server, live.

    For operators: the server has a token in TRYON_OPS_TOKEN. Keys: q quits, f shows all
    sessions, the active ones or the failed ones, j and k scroll. Without a terminal it
    prints once.
    """
    import asyncio

    from server.cli import top_run

    sys.exit(asyncio.run(top_run.run(server, token_file, once=once, as_json=as_json)))


COMMANDS: Final = (top,)
