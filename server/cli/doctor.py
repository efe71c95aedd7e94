"""The command that looks for what is wrong: ``doctor``."""

from __future__ import annotations

import sys
from typing import Final

import click

from server.config.settings import Config


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def doctor(as_json: bool) -> None:
    """Check everything that a server here needs, and say how to mend it.

    It reads the settings as `up`, `serve` and `worker` do, changes nothing, and may run
    beside them. Exit status 1 if something is broken, 2 if a setting is.
    """
    import asyncio

    from server.cli import examination

    sys.exit(asyncio.run(examination.examine(Config.load(), as_json=as_json)))


COMMANDS: Final = (doctor,)
