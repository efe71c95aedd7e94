"""The ``tryon`` command, and ``python -m server``: what a person or a service manager types.

Commands import what they run when they run: ``tryon --help`` loads none of it.
"""

from __future__ import annotations

import dataclasses
import os
import sys

import click

from server import __version__
from server.config import Config, ConfigError, default_text, variable


def main() -> None:
    """Run the command; what stops it before it starts is one line on stderr and exit status 2."""
    from server.up import UpError

    try:
        cli(prog_name="tryon")
    except ConfigError as error:
        _fail(str(error), 2)
    except UpError as error:
        _fail(str(error), error.status)


def _fail(message: str, status: int) -> None:
    print(f"tryon: {message}", file=sys.stderr)
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """TryOn Push: upload a photo, and every change of its session is pushed to the screen.

    Settings are TRYON_* variables, also in a .env file of the working directory: see `tryon settings`.
    """


@cli.command()
def up() -> None:
    """Start everything here: embedded Valkey, migrations, web, worker. Ctrl-C stops it."""
    from server.up import up

    up(Config.load())


@cli.command()
@click.option("--reuse-port", is_flag=True, help="Share the port with other web processes (SO_REUSEPORT).")
def serve(reuse_port: bool) -> None:
    """Run one web process."""
    from server.up import check_port
    from server.web import app

    config = Config.load()
    if not reuse_port:
        check_port(config.host, config.port)
    app.run(config, reuse_port=reuse_port)


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
    from server.adapters import migrations

    config = Config.load()
    config.data_dir.mkdir(parents=True, exist_ok=True)
    migrations.migrate(config)


@cli.command()
@click.option("--env", "form", flag_value="env", help="As a .env file (what .env.example is).")
@click.option("--markdown", "form", flag_value="markdown", help="As a Markdown table.")
def settings(form: str | None) -> None:
    """Print every setting with its default and meaning."""
    click.echo({"env": env_file, "markdown": markdown_table, None: plain_table}[form](), nl=False)


def rows() -> list[tuple[str, str, str]]:
    """Variable, default and meaning of every setting."""
    return [
        (variable(row), _default(row), row.metadata["meaning"].removesuffix(".")) for row in dataclasses.fields(Config)
    ]


def _default(row: dataclasses.Field[object]) -> str:
    return f"{default_text(row)} {row.metadata['unit']}".rstrip()


def plain_table() -> str:
    width = max(len(name) for name, _, _ in rows())
    return "".join(f"{name:{width}}  {meaning} [{default}]\n" for name, default, meaning in rows())


def markdown_table() -> str:
    lines = "".join(f"| `{name}` | {default} | {meaning} |\n" for name, default, meaning in rows())
    return "| Variable | Default | Meaning |\n|---|---|---|\n" + lines


def env_file() -> str:
    """Every setting as a comment: its meaning, then the line to edit, with the default where it can be typed."""
    head = "# Copy to .env and change what you need. The environment wins over this file.\n"
    parts = [head]
    for row in dataclasses.fields(Config):
        name, text = variable(row), default_text(row)
        try:
            row.metadata["parse"](text)
        except ValueError:
            typed, told = "", f" Default: {text}."
        else:
            typed, told = ("", f" Default: {text}.") if row.default in (None, ()) else (text, "")
        unit = f" In {row.metadata['unit']}." if row.metadata["unit"] else ""
        parts.append(f"\n# {row.metadata['meaning']}{unit}{told}\n# {name}={typed}\n")
    return "".join(parts)
