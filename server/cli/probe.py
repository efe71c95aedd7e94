"""``tryon probe``: the health check of a container."""

from __future__ import annotations

from typing import Final

import click

from server.cli.exits import Exit
from server.cli.failing import fail
from server.config.settings import Config
from tryon.protocol.paths import LIVE, READY

SECONDS: Final = 4.0
"""Longest wait for the answer; below the time-out of the image's health check."""

ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - nothing listens here
"""Address of this machine, by one that means all of its addresses."""


@click.command()
@click.option("--ready", is_flag=True, help="Ask whether requests may be sent to it, not whether it is alive.")
def probe(ready: bool) -> None:
    """Ask the web process of this machine whether it is alive.

    Exits with 0 if it is, 1 if it is not, 3 if nothing answers.
    """
    from http.client import HTTPConnection, HTTPException

    config = Config.load()
    path = READY if ready else LIVE
    connection = HTTPConnection(ANY_ADDRESS.get(config.host, config.host), config.port, timeout=SECONDS)
    try:
        connection.request("GET", path, headers={"Host": "localhost", "Connection": "close"})
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        fail(f"{path} at port {config.port}: {error}", Exit.UNREACHABLE)
    finally:
        connection.close()
    if status != 200:
        fail(f"{path} at port {config.port} answers {status}", Exit.FAILED)


COMMANDS: Final = (probe,)
