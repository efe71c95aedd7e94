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
@click.option("--worker", is_flag=True, help="Ask the worker at TRYON_WORKER_METRICS_PORT instead.")
@click.option("--ready", is_flag=True, help="Ask whether requests may be sent to it, not whether it is alive.")
def probe(ready: bool, worker: bool) -> None:
    """Ask the web process of this machine whether it is alive, or the worker.

    Exits with 0 if it is, 1 if it is not, 3 if nothing answers.
    """
    from http.client import HTTPConnection, HTTPException

    config = Config.load()
    if worker and ready:
        raise click.UsageError("--ready is about web processes: no request is sent to a worker")
    port = config.worker_metrics_port if worker else config.port
    if port is None:
        raise click.UsageError("--worker needs TRYON_WORKER_METRICS_PORT")
    path = READY if ready else LIVE
    connection = HTTPConnection(ANY_ADDRESS.get(config.host, config.host), port, timeout=SECONDS)
    try:
        connection.request("GET", path, headers={"Host": "localhost", "Connection": "close"})
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        fail(f"{path} at port {port}: {error}", Exit.UNREACHABLE)
    finally:
        connection.close()
    if status != 200:
        fail(f"{path} at port {port} answers {status}", Exit.FAILED)


COMMANDS: Final = (probe,)
