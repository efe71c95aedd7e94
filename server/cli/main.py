"""The ``tryon`` command, and ``python -m server``: what a person or a service manager
types.

Commands import what they run when they run: ``tryon --help`` loads none of it.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from server import __version__
from server.config import render
from server.config.settings import Config, ConfigError


def main() -> None:
    """Run the command; what stops it before it starts is one line on stderr and exit
    status 2.
    """
    from server.up import UpError

    try:
        cli(prog_name="tryon")
    except ConfigError as error:
        _fail(str(error), 2)
    except UpError as error:
        _fail(str(error), error.status)


def _fail(message: str, status: int) -> NoReturn:
    print(f"tryon: {message}", file=sys.stderr)
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """TryOn Push: upload a photo, and every change of its session is pushed to the
    screen.

    Settings are TRYON_* variables, also in a .env file of the working directory: see
    `tryon settings`.
    """


@cli.command()
def up() -> None:
    """Start everything here: embedded Valkey, migrations, web, worker.

    Ctrl-C stops it.
    """
    from server.up import up

    up(Config.load())


@cli.command()
@click.option("--reuse-port", is_flag=True, help="Share the port with other web processes (SO_REUSEPORT).")
def serve(reuse_port: bool) -> None:
    """Run one web process."""
    from server.up import check_port
    from server.web.app import create_app
    from server.web.serving.server import run

    config = Config.load()
    if not reuse_port:
        check_port(config.host, config.port)
    run(create_app(config), config, reuse_port=reuse_port)


@cli.command()
def worker() -> None:
    """Run one worker process; the same as `arq worker.Settings`."""
    from server.up import environment, python

    Config.load()  # a malformed setting is told here, in one line
    command = python("-m", "arq", "worker.Settings")
    os.execve(command[0], command, environment())  # noqa: S606 - no shell is the point


@cli.command()
def migrate() -> None:
    """Bring the database to the newest schema; waits for another `migrate` to end."""
    from server.adapters.database import migrations

    config = Config.load()
    config.data_dir.mkdir(parents=True, exist_ok=True)
    migrations.migrate(config)


def _fault(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:
    faults = [(name.strip(), command.strip()) for name, _, command in (value.partition("=") for value in values)]
    if not all(name and command for name, command in faults):
        raise click.BadParameter("must look like 'NAME=shell command'")
    return faults


_LIMITS: Final = (
    click.option("--stale-seconds", default=5.0, help="The latest that a connected client may be shown a transition."),
    click.option("--stuck-seconds", default=60.0, help="The longest that a session may stand still before its end."),
)


@cli.command(context_settings={"show_default": True})
@click.argument("url")
@click.option("--sessions", default=100, type=click.IntRange(1), help="People who come, each with one photo.")
@click.option("--rate", default=2.0, type=click.FloatRange(0, min_open=True), help="People a second.")
@click.option("--seconds", type=float, help="Nobody comes after this time.")
@click.option("--seed", default=1, help="Draws who does what, and the order of the faults.")
@click.option("--fault", "faults", multiple=True, callback=_fault, help="NAME=shell command that breaks something.")
@click.option("--every", default=15.0, help="Seconds from fault to fault.")
@click.option("--patience", default=120.0, help="Seconds that a person tries a call until giving up.")
@click.option(
    "--image", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Instead of small pictures."
)
@click.option(
    "--record", type=click.Path(dir_okay=False, path_type=Path), help="Write what everybody saw to this file."
)
@_LIMITS[0]
@_LIMITS[1]
def chaos(**options: Any) -> None:
    """Let people use the system at URL while things break, and check that every promise
    is kept.

    Only against a system that is yours: it uploads photos, deletes what it uploaded,
    and runs your --fault commands. Exit status 1 if anything is wrong.
    """
    from server.chaos import run

    try:
        verdict = run.chaos(run.Chaos(**options))
    except (ValueError, run.FaultFailed) as error:
        _fail(str(error), 2)
    except Exception:
        traceback.print_exc()
        sys.exit(2)  # 1 says that a promise was broken
    sys.exit(1 if verdict.findings else 0)


@cli.command(context_settings={"show_default": True})
@click.argument("record", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_LIMITS[0]
@_LIMITS[1]
def verdict(record: Path, stale_seconds: float, stuck_seconds: float) -> None:
    """Check the RECORD of a `tryon chaos` once more.

    Exit status 1 if anything is wrong.
    """
    from server.chaos import run

    try:
        judged = run.judge_file(record, stale_seconds=stale_seconds, stuck_seconds=stuck_seconds)
    except ValueError as error:
        _fail(f"{record}: {error}", 2)
    sys.exit(1 if judged.findings else 0)


@cli.command()
@click.option("--env", "form", flag_value="env", help="As a .env file (what .env.example is).")
@click.option("--markdown", "form", flag_value="markdown", help="As a Markdown table.")
def settings(form: str | None) -> None:
    """Print every setting with its default and meaning."""
    click.echo({"env": render.env_file, "markdown": render.markdown_table, None: render.plain_table}[form](), nl=False)
