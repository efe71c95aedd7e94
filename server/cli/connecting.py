"""A command that speaks to a server: its client, its answers, and how it ends."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import math
import os
import shlex
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import click
import msgspec

from server.cli.exits import Exit, exit_of
from server.cli.tokens import BadToken, is_exposed, make_private, read_token, token_path
from server.cli.wording import duration, printable
from tryon.client.address import DEFAULT_URL
from tryon.client.api import AsyncTryOn
from tryon.client.problems import Problem

PROBLEM_FIELDS: Final = (
    "code", "status", "title", "detail", "retryable", "retry_after", "part", "pointer", "limit", "request_id",
)  # fmt: skip
"""The fields of a problem as ``--json`` prints it."""


class Refused(Problem):
    """A refusal of this program itself, by the server's rules.

    ``advice``: the next step of the person.
    """

    advice = ""


class NotSaved(Exception):
    """A file that could not be written once the server had answered; one line."""


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
        if made:
            self.say(f"Made a client token for {self.server} in {path}")
        self._warn_of_exposed(path)
        if travels_in_clear(self.server):
            self.warn(f"{self.server} is not encrypted: your token and photos can be read on the way. Use https://.")
        return AsyncTryOn(self.server, token=token)

    def _warn_of_exposed(self, path: Path) -> None:
        """Warn of a token that other users can read; only the usual file is changed."""
        if not is_exposed(path):
            return
        try:
            if self.token_file is not None:
                raise PermissionError
            make_private(path)
        except OSError:
            self.warn(f"other users can read the token in {path}. Type: {shlex.join(['chmod', '600', str(path)])}")
        else:
            self.warn(f"other users could read the token in {path}; now only you can.")

    def say(self, text: str) -> None:
        """Print a line for the person, beside the answer; none with ``--json``."""
        if not self.as_json:
            click.echo(_shown(text), err=True)

    def warn(self, text: str) -> None:
        """Print a warning on standard error: a line, or a JSON object."""
        line = msgspec.json.encode({"warning": text}) if self.as_json else f"tryon: warning: {printable(text)}"
        click.echo(line, err=True)

    def suggest(self, *commands: tuple[str, ...]) -> None:
        """Print the commands to type next."""
        if commands:
            self.say("Next:\n" + "\n".join(f"  {self.command(*words)}" for words in commands))

    def command(self, *words: str) -> str:
        """Return a command line of this program for the same server."""
        options = [] if self.server == DEFAULT_URL else ["--server", self.server]
        options += [] if self.token_file is None else ["--token-file", str(self.token_file)]
        return shlex.join([*program(), *words, *options])

    def answer(self, body: msgspec.Struct, *lines: str) -> None:
        """Print an answer on standard output: as one line of JSON, or as lines.

        Raises NotSaved, BrokenPipeError.
        """
        try:
            click.echo(msgspec.json.encode(body) if self.as_json else "\n".join(map(printable, lines)))
        except BrokenPipeError:
            raise
        except OSError as error:  # a full disk; what the server did is done
            raise NotSaved(f"cannot print the answer: {error.strerror}") from None


def _shown(text: str) -> str:
    """Return lines as a terminal may show them: parts of them are a server's words."""
    return "\n".join(map(printable, text.split("\n")))


def travels_in_clear(server: str) -> bool:
    """Return whether requests to this address leave the machine without TLS."""
    parts = urlsplit(server)
    host = parts.hostname or ""
    if parts.scheme == "https" or host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return True


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

    A problem is a line on standard error with advice on the next one, or one JSON
    object with ``--json``.
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
    except NotSaved as error:
        _report_own(target, "not_saved", str(error))
        return Exit.FAILED
    except BrokenPipeError:  # `| head` has seen enough
        raise
    except BadToken as error:
        _report_own(target, "bad_token_file", str(error))
    except OSError as error:
        if error.filename is None:  # a full disk behind standard output; the server may have acted
            _report_own(target, "not_saved", f"cannot print the answer: {error.strerror}")
            return Exit.FAILED
        _report_own(target, "unreadable_file", f"cannot read {error.filename}: {error.strerror}")  # nothing was sent
    return Exit.USAGE


def _report_own(target: Target, code: str, text: str) -> None:
    """Report a failure on this machine: a line, or the JSON object of a problem."""
    if target.as_json:
        _report(target, Problem(code, text))
    else:
        click.echo(f"tryon: {printable(text)}", err=True)


def _report(target: Target, problem: Problem) -> None:
    if target.as_json:
        click.echo(msgspec.json.encode({name: getattr(problem, name) for name in PROBLEM_FIELDS}), err=True)
        return
    about = f" ({problem.part}{problem.pointer or ''})" if problem.part else ""
    if exit_of(problem) is Exit.UNREACHABLE:
        detail = problem.detail.removeprefix("No answer: ").rstrip(".")
        line = f"no answer from {target.server} ({detail})"
    else:
        line = f"{problem.detail or problem.title}{about}  [{problem.code}]"
    click.echo("\n  ".join(map(printable, (f"tryon: {line}", *filter(None, (advice(target, problem),))))), err=True)


def advice(target: Target, problem: Problem) -> str:
    """Return the next step after a problem; empty if its text names it."""
    if isinstance(problem, Refused):
        return problem.advice
    if exit_of(problem) is Exit.UNREACHABLE:
        local = target.server == DEFAULT_URL
        return "Start it with `tryon up`, or name another: --server URL." if local else "Does `tryon up` run there?"
    if problem.retry_after:
        return f"Try again in {duration(math.ceil(problem.retry_after))}."
    known = {
        "not_found": f"`{target.command('list')}` shows your sessions. Those of another token need its --token-file.",
        "not_finished": f"`{target.command('submit', '--from', 'ID')}` uses the photos of any session again.",
        "unknown": f"Is {target.server} the address of a TryOn Push server?",
    }
    return known.get(problem.code, "")
