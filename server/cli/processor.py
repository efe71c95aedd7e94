"""Commands for the author of a processor: ``processor check``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import click


@click.group()
def processor() -> None:
    """Try a processor of your own."""


@processor.command()
@click.argument("name", metavar="MODULE:CLASS")
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--garment", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Photo of the garment.")
@click.option("--input", "inputs", multiple=True, metavar="ROLE=FILE", help="A photo by its role.")
@click.option("--params", default="{}", metavar="JSON", help="Parameters of the run.")
@click.option("--options", metavar="JSON|FILE", help="Options of the constructor, instead of TRYON_PROCESSOR_OPTIONS.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Save the picture to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def check(
    name: str,
    image: Path,
    garment: Path | None,
    inputs: tuple[str, ...],
    params: str,
    options: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    r"""Run a processor once, as a worker would: in its sandbox, with IMAGE.

    \b
    tryon processor check sepia:Sepia me.jpg -o out.jpg
    """
    from server.cli.steps import Steps
    from server.system.processes import python_environment

    photos = [f"={image}", *([f"garment={garment}"] if garment else []), *inputs]
    arguments = ["--params", params, *(part for photo in photos for part in ("--photo", photo))]
    arguments += [] if options is None else ["--options", options]
    arguments += [] if output is None else ["--output", str(output)]
    environment = python_environment(os.environ)
    # As a worker has it: the working directory first.
    command = [sys.executable, "-m", "worker.trial", name, *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        try:
            if as_json:
                for line in process.stdout:
                    click.echo(line, nl=False)
            else:
                Steps(sys.stdout, sys.stderr).show(process.stdout)
        except KeyboardInterrupt:
            process.wait()  # it was interrupted, too, and ends its children
            raise
    if process.returncode == 0 and not as_json:
        click.echo(
            f"Next:\n  TRYON_PROCESSOR={name} tryon up\n  python -m tryon.processor.conformance {name}", err=True
        )
    sys.exit(process.returncode)


COMMANDS: Final = (processor,)
