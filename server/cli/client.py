"""Commands of a client: ``submit``, ``watch``, ``list``, ``show`` and the others.

They speak to a server over its API and read none of its settings. What each does is in
:mod:`~server.cli.verbs`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import click

from tryon.client.address import DEFAULT_URL

_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Hosts that are spoken to without TLS where no scheme is given."""

F = TypeVar("F", bound=Callable[..., Any])


def _address(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Return a whole address; ``https://`` may be left out, on this machine ``http://``."""
    host = value.partition("/")[0]
    local = host in _LOCAL or host.rpartition(":")[0] in _LOCAL
    whole = value if "://" in value else f"{'http' if local else 'https'}://{value}"
    try:
        parts = urlsplit(whole)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise click.BadParameter(f"{value!r} is not an address like https://tryon.example")
    return whole.rstrip("/")


def _inputs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, list[Path]]:
    inputs: dict[str, list[Path]] = {}
    for value in values:
        role, _, name = value.partition("=")
        path = Path(name).expanduser()
        if not role or not path.is_file():
            raise click.BadParameter(
                f"{value!r} is not ROLE=FILE" + (f": there is no file {name}" if role and name else "")
            )
        inputs.setdefault(role, []).append(path)
    return inputs


def _param(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, object]:
    """Return the parameters; a value that is JSON counts as such, else as text."""
    params: dict[str, object] = {}
    for value in values:
        name, given, text = value.partition("=")
        if not name or not given:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        try:
            params[name] = json.loads(text)
        except ValueError:
            params[name] = text
    return params


def _params(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, object] | None:
    try:
        params = None if value is None else json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"it is not JSON: {error}") from None
    if params is not None and not isinstance(params, dict):
        raise click.BadParameter("it is not a JSON object")
    return params


def _output(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and not value.is_dir() and not value.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {value.absolute().parent}")
    return value


_OUTPUT: Final = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    callback=_output,
    help="Save the picture to this file or folder; a second picture gets the name NAME-2.",
)
_WATCH: Final = click.option("--watch/--no-watch", default=None, help="Follow it to its end; -o implies it.")
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


def _client(command: F) -> F:
    """Add the options of every command that speaks to a server."""
    command = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, one object per line.")(command)
    command = click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File of the client token, made if missing.  [default: one per server in ~/.config/tryon/tokens]",
    )(command)
    return click.option(
        "--server", default=DEFAULT_URL, show_default=True, callback=_address, help="Address of the server."
    )(command)


@click.command()
@click.argument("image", type=_FILE, required=False)
@click.option("--garment", type=_FILE, help="Photo of the garment.")
@click.option("--input", "inputs", multiple=True, callback=_inputs, metavar="ROLE=FILE", help="A photo by its role.")
@click.option("--param", multiple=True, callback=_param, metavar="NAME=VALUE", help="One parameter of the processor.")
@click.option("--params", callback=_params, metavar="JSON", help="All parameters, as a JSON object.")
@click.option("--from", "original", metavar="ID", help="Use the photos of this session for roles that are not given.")
@_WATCH
@_OUTPUT
@_client
def submit(**options: Any) -> None:
    r"""Upload photos and print the id of their session.

    \b
    tryon submit me.jpg --garment shirt.png --watch -o out.jpg
    tryon submit --from ID --garment hat.png -o hat.jpg
    """
    if options["image"] is None and not options["inputs"] and not options["original"]:
        raise click.UsageError("Give a photo: tryon submit me.jpg")
    from server.cli import connecting, verbs

    connecting.run(verbs.submit, **options)


@click.command()
@click.argument("session", metavar="[ID]", required=False)
@_OUTPUT
@_client
def watch(**options: Any) -> None:
    """Follow a session to its end; without an ID the newest.

    Exit status 0 if it completed, 1 if it did not.
    """
    from server.cli import connecting, verbs

    connecting.run(verbs.watch, **options)


@click.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Number of sessions.")
@_client
def list_sessions(**options: Any) -> None:
    """List your sessions on this server, newest first."""
    from server.cli import connecting, verbs

    connecting.run(verbs.list_sessions, **options)


@click.command()
@click.argument("session", metavar="[ID]", required=False)
@_client
def show(**options: Any) -> None:
    """Show a session with its history; without an ID the newest."""
    from server.cli import connecting, verbs

    connecting.run(verbs.show, **options)


@click.command()
@click.argument("session", metavar="ID")
@_client
def cancel(**options: Any) -> None:
    """Cancel a session that has not ended."""
    from server.cli import connecting, verbs

    connecting.run(verbs.cancel, **options)


@click.command()
@click.argument("session", metavar="ID")
@_WATCH
@_OUTPUT
@_client
def retry(**options: Any) -> None:
    """Try a failed or cancelled session again, and print the id of the new one."""
    from server.cli import connecting, verbs

    connecting.run(verbs.retry, **options)


@click.command()
@click.argument("session", metavar="ID")
@_client
def share(**options: Any) -> None:
    """Print a link to the picture for others; it ends after a day at most."""
    from server.cli import connecting, verbs

    connecting.run(verbs.share, **options)


@click.command()
@click.argument("sessions", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--receipt",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_output,
    help="Write the signed receipt to this file; several are a JSON list.",
)
@_client
def delete(**options: Any) -> None:
    """Erase sessions with their photos and retries, now and for good."""
    from server.cli import connecting, verbs

    connecting.run(verbs.delete, **options)


COMMANDS: Final = (submit, watch, list_sessions, show, cancel, retry, share, delete)
