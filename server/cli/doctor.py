"""The command that looks for faults of an installation: ``doctor``."""

from __future__ import annotations

import sys
from typing import Final

import click

from server.cli import arguments
from server.config.settings import Config


@click.command()
@arguments.JSON
def doctor(as_json: bool) -> None:
    """Check everything that a server here needs, and say how to mend it.

    It reads the settings as `up`, `serve` and `worker` do, changes nothing, and may run
    beside them. Exit status 1 if something is broken, 2 if a setting is.
    """
    import asyncio

    from server.cli import examination

    sys.exit(asyncio.run(examination.examine(Config.load(), as_json=as_json)))


COMMANDS: Final = (doctor,)
