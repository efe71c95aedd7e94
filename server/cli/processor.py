"""Commands for the author of a processor: ``processor check``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from server.cli import arguments


@click.group()
def processor() -> None:
    """Try a processor of your own."""


@processor.command()
@click.argument("name", metavar="MODULE:CLASS")
@click.argument("image", type=arguments.FILE)
@click.option("--garment", type=arguments.FILE, help="Photo of the garment.")
@click.option(
    "--input", "inputs", multiple=True, callback=arguments.inputs, metavar="ROLE=FILE", help="A photo by its role."
)
@click.option("--params", callback=arguments.params, metavar="JSON", help="Parameters of the run.")
@click.option("--options", metavar="JSON|FILE", help="Options of the constructor, instead of TRYON_PROCESSOR_OPTIONS.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=arguments.output,
    help="Save the picture to this file.",
)
@arguments.JSON
def check(
    name: str,
    image: Path,
    garment: Path | None,
    inputs: Mapping[str, Sequence[Path]],
    params: Mapping[str, Any] | None,
    options: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    r"""Run a processor once, as a worker would: in its sandbox, with IMAGE.

    Exit status 1 if the processor fails, 2 if a photo, parameter or option is
    wrong.

    \b
    tryon processor check sepia:Sepia me.jpg -o out.jpg
    """
    from server.cli.steps import Steps
    from server.system.processes import python_environment

    photos = [("", image), *([("garment", garment)] if garment else [])]
    photos += [(role, path) for role, paths in inputs.items() for path in paths]
    command = [sys.executable, "-m", "worker.trial", name]  # as a worker has it: the working directory first
    command += [part for role, path in photos for part in ("--photo", f"{role}={path}")]
    command += [] if params is None else ["--params", json.dumps(params)]
    command += [] if options is None else ["--options", options]
    command += [] if output is None else ["--output", str(output)]
    environment = python_environment(os.environ) | {"PYTHONIOENCODING": "utf-8:backslashreplace"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, encoding="utf-8", errors="backslashreplace"
    )
    assert process.stdout is not None
    with process:
        try:
            if as_json:
                for line in process.stdout:
                    click.echo(line.encode(), nl=False)
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
