"""A command that speaks to a server: its client, its answers, and how it ends."""

from __future__ import annotations

import asyncio
import functools
import os
import shlex
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from server.cli.exits import Exit, exit_of
from server.cli.tokens import BadToken, make_private, read_token, token_path
from tryon.client.address import DEFAULT_URL
from tryon.client.api import AsyncTryOn
from tryon.client.problems import Problem


@dataclass(frozen=True, slots=True)
class Target:
    """The server that a command speaks to, and the form of its answers."""

    server: str
    token_file: Path | None
    as_json: bool

    def open(self) -> AsyncTryOn:
        """Return a client with this user's token. Raises BadToken."""
        path = self.token_file or token_path(self.server, os.environ)
        token, made = read_token(path)
        if self.token_file is None:
            make_private(path)
        if made:
            self.say(f"Made a client token for {self.server} in {path}")
        return AsyncTryOn(self.server, token=token)

    def say(self, text: str) -> None:
        """Print a line for the person, beside the answer; none with ``--json``."""
        if not self.as_json:
            click.echo(text, err=True)

    def suggest(self, *commands: tuple[str, ...]) -> None:
        """Print what to type next."""
        if commands:
            self.say("Next:\n" + "\n".join(f"  {self.command(*words)}" for words in commands))

    def command(self, *words: str) -> str:
        """Return a command line of this program for the same server."""
        options = [] if self.server == DEFAULT_URL else ["--server", self.server]
        options += [] if self.token_file is None else ["--token-file", str(self.token_file)]
        return shlex.join([*program(), *words, *options])

    def answer(self, body: msgspec.Struct, *lines: str) -> None:
        """Print an answer on standard output: as one line of JSON, or as lines."""
        click.echo(msgspec.json.encode(body).decode() if self.as_json else "\n".join(lines))


def program() -> list[str]:
    """Return how this program was called, so that a person can call it again."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return [Path(sys.executable).name, "-m", "server"]
    return [Path(called).name] if shutil.which(Path(called).name) else [called]


def run(
    call: Callable[..., Awaitable[Exit]], *, server: str, token_file: Path | None, as_json: bool, **arguments: Any
) -> NoReturn:
    """Run ``call(target, …)`` and exit with its status.

    A problem is one line on standard error, or one JSON object with ``--json``.
    """
    target = Target(server, token_file, as_json)
    sys.exit(_status(target, functools.partial(call, target, **arguments)))


def _status(target: Target, call: Callable[[], Awaitable[Exit]]) -> Exit:
    async def called() -> Exit:
        return await call()

    try:
        return asyncio.run(called())
    except Problem as problem:
        _report(target, problem)
        return exit_of(problem)
    except BrokenPipeError:  # `| head` has seen enough
        raise
    except (BadToken, OSError) as error:
        click.echo(f"tryon: {error}", err=True)
        return Exit.USAGE


def _report(target: Target, problem: Problem) -> None:
    status = exit_of(problem)
    if target.as_json:
        names = (
            "code",
            "status",
            "title",
            "detail",
            "retryable",
            "retry_after",
            "part",
            "pointer",
            "limit",
            "request_id",
        )
        click.echo(msgspec.json.encode({name: getattr(problem, name) for name in names}).decode(), err=True)
    elif status is Exit.UNREACHABLE:
        detail = problem.detail.removeprefix("No answer: ").rstrip(".")
        click.echo(f"tryon: no answer from {target.server} ({detail}); does `tryon up` run there?", err=True)
    else:
        about = f" ({problem.part}{problem.pointer or ''})" if problem.part else ""
        click.echo(f"tryon: {problem.detail or problem.title}{about}  [{problem.code}]", err=True)
