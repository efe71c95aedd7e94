"""Commands of a client: ``submit``, ``watch``, ``list``, ``show`` and the others.

They speak to a server over its API and read none of its settings. Their code is in
:mod:`~server.cli.verbs`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from server.cli import arguments
from tryon.client.address import DEFAULT_URL

F = TypeVar("F", bound=Callable[..., Any])


_OUTPUT: Final = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    callback=arguments.output,
    help="Save the picture to this file or folder; a second picture gets the name NAME-2.",
)
_WATCH: Final = click.option("--watch/--no-watch", default=None, help="Follow it to its end; -o implies it.")


def _client(command: F) -> F:
    """Add the options of every command that speaks to a server."""
    command = click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File of the client token, made if missing.  [default: one per server in ~/.config/tryon/tokens]",
    )(command)
    command = arguments.JSON(command)
    return click.option(
        "--server", default=DEFAULT_URL, show_default=True, callback=arguments.address, help="Address of the server."
    )(command)


@click.command()
@click.argument("image", type=arguments.FILE, required=False)
@click.option("--garment", type=arguments.FILE, help="Photo of the garment.")
@click.option(
    "--input", "inputs", multiple=True, callback=arguments.inputs, metavar="ROLE=FILE", help="A photo by its role."
)
@click.option(
    "--param", multiple=True, callback=arguments.param, metavar="NAME=VALUE", help="One parameter of the processor."
)
@click.option("--params", callback=arguments.params, metavar="JSON", help="All parameters, as a JSON object.")
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
@click.option("--all", "everything", is_flag=True, help="Follow all of your sessions, until you stop it.")
@_OUTPUT
@_client
def watch(*, everything: bool, **options: Any) -> None:
    """Follow a session to its end; without an ID the newest.

    Exit status 0 if it completed, 1 if it did not. With --all a line for each change
    of each session, over one connection, until you stop it.
    """
    from server.cli import connecting, verbs

    if everything:
        if options.pop("session") is not None or options.pop("output") is not None:
            raise click.UsageError("--all takes neither an ID nor an output.")
        connecting.run(verbs.watch_all, **options)
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
    callback=arguments.output,
    help="Write the signed receipt to this file; several are a JSON list.",
)
@_client
def delete(**options: Any) -> None:
    """Erase sessions with their photos and retries, now and for good."""
    from server.cli import connecting, verbs

    connecting.run(verbs.delete, **options)


COMMANDS: Final = (submit, watch, list_sessions, show, cancel, retry, share, delete)
