"""Commands that run the product: ``up``, ``serve``, ``worker``, ``migrate``."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Final

import click

from server.config.settings import Config

if TYPE_CHECKING:
    from server.adapters.redis.rights import Role


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on, 0 for a free one (TRYON_PORT).")
@click.option("--processor", metavar="NAME", help="What makes the picture (TRYON_PROCESSOR).")
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser once it is ready.")
@click.option("--quiet", is_flag=True, help="Print the address and warnings only (TRYON_LOG_LEVEL=warning).")
def up(port: int | None, processor: str | None, open_page: bool, quiet: bool) -> None:
    """Start everything here: embedded Valkey, migrations, web, worker.

    Ctrl-C stops it. An option wins over its setting.
    """
    from server.up import up

    given = {
        "TRYON_PORT": None if port is None else str(port),
        "TRYON_PROCESSOR": processor,
        "TRYON_LOG_LEVEL": "warning" if quiet else None,
    }
    os.environ |= {name: text for name, text in given.items() if text is not None}  # of the programs it starts, too
    up(Config.load(), on_ready=_open if open_page else None)


def _open(url: str) -> None:
    """Open the page in the browser; print its address for another one if there is none.

    Without a screen programs would be found that open nothing (xdg-open), or that take
    the terminal (w3m); BROWSER names one that is wanted all the same.
    """
    import webbrowser

    screen = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    if (sys.platform != "darwin" and not any(map(os.environ.get, screen))) or not webbrowser.open(url):
        click.echo(f"tryon: no browser was found; open {url}", err=True)


@click.command()
@click.option("--reuse-port", is_flag=True, help="Share the port with other web processes (SO_REUSEPORT).")
def serve(reuse_port: bool) -> None:
    """Run one web process."""
    from server.adapters.redis.rights import Role
    from server.system.clock import SystemClock
    from server.system.randomness import SystemRandomness
    from server.up import check_port
    from server.web.api.static_files import static_files
    from server.web.app import create_app
    from server.web.serving.server import run

    config = Config.load()
    if not reuse_port:
        check_port(config.host, config.port)
    _check(config, Role.WEB)
    static_files()  # the lifespan would print a trace if they could not be read
    run(create_app(config, clock=SystemClock(), randomness=SystemRandomness()), config, reuse_port=reuse_port)


@click.command()
def worker() -> None:
    """Run one worker process; the same as `arq worker.Settings`."""
    from server.system.processes import python, python_environment

    Config.load().signing_keys()  # a malformed setting is reported here, in one line
    command = python("-m", "arq", "worker.Settings")
    os.execve(command[0], command, python_environment(os.environ))  # noqa: S606 - no shell is the point


@click.command()
@click.option("--then-check", is_flag=True, hidden=True, help="Then check what a process of `tryon up` needs.")
def migrate(then_check: bool) -> None:
    """Migrate the database to the newest schema; waits for another `migrate` to end."""
    from server.adapters.database import migrations

    config = Config.load()
    migrations.migrate(config)
    if then_check:
        _check(config)


def _check(config: Config, role: Role | None = None) -> None:
    """Raise ConfigError, one line, if this process could not do its work."""
    from server.startup import check_folder, check_start

    check_folder(config)  # no outage, so it counts without TRYON_START_CHECK, too
    config.signing_keys()
    config.redis  # noqa: B018  # raises ConfigError
    if config.start_check:
        asyncio.run(check_start(config, role))


COMMANDS: Final = (up, serve, worker, migrate)
