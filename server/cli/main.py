"""The ``tryon`` command, and ``python -m server``: one file per group of commands.

Commands import what they run when they run: ``tryon --help`` loads none of it.
"""

from __future__ import annotations

import click

from server import __version__
from server.cli import chaos, operator, overlay, samples, serve
from server.cli.failing import fail
from server.config.settings import ConfigError
from server.system.processes import make_files_private


def main() -> None:
    """Run the command.

    A failure before it starts is one line on standard error and exit status 2.
    """
    from server.up.errors import UpError

    make_files_private()
    try:
        cli(prog_name="tryon")
    except ConfigError as error:
        fail(str(error), 2)
    except UpError as error:
        fail(str(error), error.status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """TryOn Push: upload a photo and follow its session, pushed to the screen.

    Settings are TRYON_* variables, also in a .env file of the working directory: see
    `tryon settings`.
    """


for _command in (*serve.COMMANDS, *samples.COMMANDS, *chaos.COMMANDS, *overlay.COMMANDS, *operator.COMMANDS):
    cli.add_command(_command)
