"""Runs ``tryon top``: on a terminal until a key or a signal, else once.

The terminal is left as it was found, however the command ends: its own screen, its
cursor, its keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from server.cli.exits import Exit
from server.cli.top_feed import Feed, Lost, Picture, Refused
from server.cli.top_screen import FILTERS, Line, screen
from server.cli.wording import duration, printable
from server.domain.operator import Frame

TOKEN_VARIABLE: Final = "TRYON_OPS_TOKEN"  # noqa: S105 - a name

STYLES: Final = {"title": "\x1b[7m", "head": "\x1b[1m", "bad": "\x1b[31m", "run": "\x1b[32m", "soft": "\x1b[2m"}
COLOURS: Final = frozenset({"bad", "run"})
"""Styles that NO_COLOR (no-color.org) switches off."""

_RESET: Final = "\x1b[0m"
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_STOPS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_DRAW_SECONDS: Final = 0.1
"""Shortest time between two drawings."""


async def run(server: str, token_file: Path | None, *, once: bool, as_json: bool) -> int:
    """Run the command, and return its exit status."""
    try:
        token = _token(token_file)
    except (OSError, ValueError) as error:
        return _fail(as_json, "usage", 0, str(error), Exit.USAGE)
    feed = Feed(server, token)
    try:
        if as_json and not once:
            return await _print_frames(feed)
        if once or not sys.stdout.isatty() or not sys.stdin.isatty():
            return await _print_once(feed, server, as_json)
        return await _Top(feed, server).run()
    except Refused as refused:
        return _fail(as_json, "refused", refused.status, str(refused), Exit.REFUSED)
    except Lost as lost:
        return _fail(as_json, "network", 0, f"no answer from {server} ({lost})", Exit.UNREACHABLE)
    finally:
        await feed.close()


def _token(token_file: Path | None) -> str:
    """Return the token of the file or of the variable: of several the first.

    Raises OSError, ValueError.
    """
    if token_file is not None:
        try:
            text = token_file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not ASCII"
            raise ValueError(f"cannot read the token in {token_file}: {reason}") from None
    else:
        text = os.environ.get(TOKEN_VARIABLE, "")
    token = text.replace(",", " ").split()[:1]
    if not token or not token[0].isascii() or not token[0].isprintable():
        raise ValueError(f"an operator's token is needed: set {TOKEN_VARIABLE}, or name its file with --token-file")
    return token[0]


def _fail(as_json: bool, code: str, status: int, text: str, exit_status: Exit) -> int:
    if as_json:
        click.echo(msgspec.json.encode({"code": code, "status": status, "detail": text}), err=True)
    else:
        click.echo(f"tryon: {printable(text)}", err=True)
    return exit_status


async def _print_once(feed: Feed, server: str, as_json: bool) -> int:
    overview, data = await feed.overview()
    if as_json:
        click.echo(data)
        return Exit.DONE
    picture = Picture()
    picture.take(overview)
    columns = shutil.get_terminal_size((160, 24)).columns if sys.stdout.isatty() else 160
    for line in screen(picture, server=server, status="", columns=columns, rows=None, blocks=_shows_blocks()):
        click.echo(line.text.rstrip())
    return Exit.DONE


async def _print_frames(feed: Feed) -> int:
    """Print each frame as a line, until a signal; a lost stream is opened again."""

    def print_frame(frame: Frame, data: bytes) -> None:
        click.echo(data)

    def say(reason: str, pause: float) -> None:
        click.echo(msgspec.json.encode({"warning": f"{reason}; trying again in {duration(pause)}"}), err=True)

    with _stopping() as stopped:
        following = asyncio.create_task(feed.follow(print_frame, say))
        return await _until_stopped(following, stopped)


async def _until_stopped(following: asyncio.Task[None], stopped: asyncio.Future[int]) -> int:
    """Return the exit status of what comes first; what following raises goes on."""
    try:
        both: set[asyncio.Future[Any]] = {following, stopped}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
        return stopped.result()
    finally:
        following.cancel()
        await asyncio.wait({following})


@contextlib.contextmanager
def _stopping() -> Iterator[asyncio.Future[int]]:
    """Give a future of the exit status that a signal asks for, as shells count it."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if not stopped.done():
            stopped.set_result(128 + number)

    for number in _STOPS:
        loop.add_signal_handler(number, stop, number)
    try:
        yield stopped
    finally:
        for number in _STOPS:
            loop.remove_signal_handler(number)


class _Top:
    """The live screen. State: what was said, the connection, filter and place."""

    def __init__(self, feed: Feed, server: str) -> None:
        self._feed = feed
        self._server = server
        self._picture = Picture()
        self._status = "connecting"
        self._filter = 0
        self._offset = 0
        self._changed = asyncio.Event()

    async def run(self) -> int:
        """Show the screen until `q` or a signal; return the exit status."""
        loop = asyncio.get_running_loop()
        with _stopping() as stopped:
            overview, _ = await self._feed.overview()  # a refusal is said on the usual screen
            self._picture.take(overview)
            with _own_screen():
                drawing = asyncio.create_task(self._draw_forever())
                loop.add_signal_handler(signal.SIGWINCH, self._changed.set)
                loop.add_reader(sys.stdin.fileno(), self._read_keys, stopped)
                try:
                    self._changed.set()
                    return await _until_stopped(asyncio.create_task(self._feed.follow(self._take, self._lose)), stopped)
                finally:
                    loop.remove_reader(sys.stdin.fileno())
                    loop.remove_signal_handler(signal.SIGWINCH)
                    drawing.cancel()
                    await asyncio.wait({drawing})

    def _take(self, frame: Frame, data: bytes) -> None:
        self._status = "live"
        self._picture.take(frame)
        self._changed.set()

    def _lose(self, reason: str, pause: float) -> None:
        self._status = f"reconnecting in {duration(pause)} ({reason})"
        self._changed.set()

    def _read_keys(self, stopped: asyncio.Future[int]) -> None:
        keys = os.read(sys.stdin.fileno(), 64)
        page = 10
        if not keys and not stopped.done():  # the terminal is gone
            stopped.set_result(128 + signal.SIGHUP)
        for key in (b"q", b"Q"):
            if key in keys and not stopped.done():
                stopped.set_result(Exit.DONE)
        if b"f" in keys:
            self._filter, self._offset = (self._filter + 1) % len(FILTERS), 0
        steps = {b"j": 1, b"k": -1, b"\x1b[B": 1, b"\x1b[A": -1, b"\x1b[6~": page, b"\x1b[5~": -page, b" ": page}
        moved = sum(step * keys.count(key) for key, step in steps.items())
        self._offset = max(0, min(self._offset + moved, max(0, len(self._picture.sessions) - 1)))
        self._changed.set()

    async def _draw_forever(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            size = shutil.get_terminal_size()
            lines = screen(
                self._picture,
                server=self._server,
                status=self._status,
                columns=size.columns,
                rows=size.lines,
                blocks=_shows_blocks(),
                shown=FILTERS[self._filter],
                offset=self._offset,
            )
            _write("\x1b[H" + "\r\n".join(_styled(line) for line in lines) + "\x1b[J")
            await asyncio.sleep(_DRAW_SECONDS)


def _shows_blocks() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _styled(line: Line) -> str:
    style = STYLES.get(line.style, "")
    if line.style in COLOURS and os.environ.get("NO_COLOR"):
        style = ""
    return f"{style}{line.text}{_RESET if style else ''}\x1b[K"


@contextlib.contextmanager
def _own_screen() -> Iterator[None]:
    """Draw on the terminal's other screen, and read single keys, until the end."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        _write(_ENTER)
        yield
    finally:
        _write(_LEAVE)
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _write(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone: a signal says so
        sys.stdout.write(text)
        sys.stdout.flush()
