"""Commands that check a running system: ``chaos`` and ``verdict``."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any, Final

import click

from server.cli import arguments
from server.cli.failing import fail

_STALE: Final = click.option(
    "--stale-seconds", default=5.0, help="Maximum delay until a connected client sees a transition."
)
_STUCK: Final = click.option("--stuck-seconds", default=60.0, help="Maximum time a session may stand still.")


def _faults(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:
    faults = [(name.strip(), command.strip()) for name, _, command in (value.partition("=") for value in values)]
    if not all(name and command for name, command in faults):
        raise click.BadParameter("must look like 'NAME=shell command'")
    return faults


@click.command(context_settings={"show_default": True})
@click.argument("url")
@click.option("--sessions", default=100, type=click.IntRange(1), help="Simulated users, each with one photo.")
@click.option("--rate", default=2.0, type=click.FloatRange(0, min_open=True), help="New users per second.")
@click.option("--seconds", type=float, help="No new user arrives after this time.")
@click.option("--seed", default=1, help="Seed of what each user does, and of the order of the faults.")
@click.option("--fault", "faults", multiple=True, callback=_faults, help="NAME=shell command that breaks something.")
@click.option("--every", default=15.0, help="Seconds from fault to fault.")
@click.option("--patience", default=120.0, help="Seconds that a user retries a call before giving up.")
@click.option(
    "--image",
    type=arguments.FILE,
    help="Photo to upload instead of small generated ones.",
)
@click.option(
    "--record", type=click.Path(dir_okay=False, path_type=Path), help="Write everything the users saw to this file."
)
@_STALE
@_STUCK
@arguments.JSON
def chaos(**options: Any) -> None:
    """Run simulated users against URL while things break, and check every promise.

    Only against your own system: it uploads photos, deletes them again, and runs your
    --fault commands. Exit status 1 if a promise was broken.
    """
    from server.chaos import run
    from server.system.clock import SystemClock

    try:
        verdict = run.chaos(run.Chaos(**options), SystemClock())
    except (ValueError, run.FaultFailed) as error:
        fail(str(error), 2)
    except Exception:
        traceback.print_exc()
        sys.exit(2)  # 1 says that a promise was broken
    sys.exit(1 if verdict.findings else 0)


@click.command(context_settings={"show_default": True})
@click.argument("record", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_STALE
@_STUCK
@arguments.JSON
def verdict(record: Path, stale_seconds: float, stuck_seconds: float, as_json: bool) -> None:
    """Check the RECORD of an earlier `tryon chaos` again.

    Exit status 1 if a promise was broken.
    """
    from server.chaos import run

    try:
        judged = run.judge_file(record, stale_seconds=stale_seconds, stuck_seconds=stuck_seconds, as_json=as_json)
    except ValueError as error:
        fail(f"{record}: {error}", 2)
    sys.exit(1 if judged.findings else 0)


COMMANDS: Final = (chaos, verdict)
