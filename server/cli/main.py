"""The ``tryon`` command, and ``python -m server``: one file per group of commands.

A command imports its code when it runs, so that ``tryon --help`` loads none of it.
"""

from __future__ import annotations

import io
import sys
from typing import Final

import click

from server import __version__
from server.cli import chaos, client, completion, doctor, operator, overlay, probe, processor, samples, serve, top
from server.cli.exits import Exit
from server.cli.failing import fail
from server.config.settings import ConfigError
from server.system.processes import make_files_private


def main() -> None:
    """Run the command.

    A failure before it starts is one line on standard error and exit status 2.
    """
    from server.up.errors import Reported, UpError

    make_files_private()
    show_every_character()
    try:
        status = cli.main(prog_name="tryon", standalone_mode=False)
    except click.Abort:  # Ctrl-C
        sys.exit(Exit.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ConfigError as error:
        fail(str(error), Exit.USAGE)
    except Reported as error:
        sys.exit(error.status)
    except UpError as error:
        fail(str(error), error.status)
    sys.exit(status)  # of --help and --version; a command exits by itself, or has done its work


def show_every_character() -> None:
    """Print characters that the locale's encoding lacks as escapes, not as an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """TryOn Push: upload a photo and follow its session, pushed to the screen.

    `up` starts everything here; `submit` and the commands below it use a running
    server. Settings of a server are TRYON_* variables, also in a .env file of the
    working directory: see `tryon settings`.
    """


_GROUPS: Final = (serve, client, doctor, probe, processor, samples, operator, top, overlay, chaos, completion)

for _group in _GROUPS:
    for _command in _group.COMMANDS:
        cli.add_command(_command)
