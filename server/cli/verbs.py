"""The commands of a client: their calls to the server, and their output.

An answer goes to standard output, so that a script can use it; progress and the next
commands to type go to standard error.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
import msgspec

from server.cli.connecting import NotSaved, Target
from server.cli.exits import Exit
from server.cli.progress import Screen, noting_connections
from server.cli.wording import duration, printable, seconds_between, size
from server.domain.outputs import EXTENSIONS
from server.domain.session import valid_session_id
from tryon.client.api import AsyncTryOn
from tryon.client.problems import Problem
from tryon.client.requests import SessionPage
from tryon.client.watching import Erased
from tryon.protocol.states import Status
from tryon.protocol.views import FileView, HistoryEvent, Receipt, SessionView

PAGE: Final = 100
"""Most sessions that one request lists."""

ID: Final = "{:36}  {:11} {:>12}  {}"
"""A row of the list."""

LOST_SECONDS: Final = 300.0
"""Longest time without a connection until a command gives up following: a server that
is replaced, and a laptop that was moved, are back by then.
"""


class SessionWithHistory(SessionView, frozen=True):
    """A session as ``show --json`` prints it."""

    history: list[HistoryEvent] = []


# -- making and following --------------------------------------------------------------


async def submit(
    target: Target,
    *,
    image: Path | None,
    garment: Path | None,
    inputs: Mapping[str, Sequence[Path]],
    param: Mapping[str, object],
    params: Mapping[str, object] | None,
    original: str | None,
    watch: bool | None,
    output: Path | None,
) -> Exit:
    """Check photos and upload them; follow their session if that is wanted."""
    from server.cli import checking  # loads Pillow

    given = {**(params or {}), **param} if param or params is not None else None
    async with target.open() as tryon:
        photos = checking.parts_of(image, garment, inputs)
        await checking.check(tryon, photos, given, copied=original is not None)
        try:
            session = await tryon.upload(image, garment=garment, inputs=inputs, params=given, original=original)
        except asyncio.CancelledError:
            target.say("Interrupted; the photos may have arrived.")
            target.suggest(("list",))
            raise
        return await _made(target, tryon, session, watch=watch, output=output)


async def retry(target: Target, *, session: str, watch: bool | None, output: Path | None) -> Exit:
    """Make a new session of one that failed; follow it if that is wanted."""
    async with target.open() as tryon:
        return await _made(target, tryon, await tryon.retry(session), watch=watch, output=output)


async def _made(
    target: Target, tryon: AsyncTryOn, session: SessionView, *, watch: bool | None, output: Path | None
) -> Exit:
    target.answer(session, session.session_id)
    if watch or (watch is None and output is not None):
        return await _watched(target, tryon, session, output)
    target.suggest(("watch", session.session_id, "-o", "result.jpg"), ("show", session.session_id))
    target.say("  " + shlex.join(("npx", "wscat", "-c", tryon.url(session.links.ws).replace("http", "ws", 1))))
    return Exit.DONE


async def watch(target: Target, *, session: str | None, output: Path | None) -> Exit:
    """Follow a session to its end, and save its picture if that is wanted."""
    async with target.open() as tryon:
        found = await _found(tryon, session)
        if session is None:
            target.say(f"Following {found.session_id}")
        return await _watched(target, tryon, found, output)


async def watch_all(target: Target) -> Exit:
    """Show each change of each session of this owner, until it is interrupted."""
    async with target.open() as tryon, aclosing(tryon.watch_all()) as changes:
        async for change in changes:
            if isinstance(change, Erased):
                target.answer(change, f"{change.session_id}  {change.reason}")
            elif target.as_json or change.event is not None:
                word = "" if change.event is None else change.event.event.value
                target.answer(change.session, f"{change.session.session_id}  {word}")
    return Exit.DONE


async def _watched(target: Target, tryon: AsyncTryOn, session: SessionView, output: Path | None) -> Exit:
    again = ("watch", session.session_id, *(() if output is None else ("-o", str(output))))
    try:
        ended = await _followed(target, tryon, session)
    except asyncio.CancelledError:
        target.say("Interrupted; the session goes on.")
        target.suggest(again, ("cancel", session.session_id))
        raise
    except TimeoutError:
        target.say("The session goes on.")
        target.suggest(again)
        raise Problem("network", f"no connection for {duration(LOST_SECONDS)}", retryable=True) from None
    return await _ended(target, tryon, ended, output)


async def _followed(target: Target, tryon: AsyncTryOn, session: SessionView) -> SessionView:
    """Show a session until it has ended, and return it.

    Raises TimeoutError after LOST_SECONDS without a connection.
    """
    screen = Screen(sys.stderr, quiet=target.as_json)
    try:
        async with asyncio.timeout(None) as patience, aclosing(tryon.follow(session)) as updates:

            def on_change(connected: bool) -> None:
                if connected:
                    patience.reschedule(None)
                    screen.show(session)
                else:
                    screen.note("no connection, trying again")
                    if patience.when() is None:
                        patience.reschedule(asyncio.get_running_loop().time() + LOST_SECONDS)

            with noting_connections(on_change):
                async for update in updates:
                    session = update.session
                    screen.show(session)
                    if target.as_json:
                        target.answer(session)
    finally:
        screen.end()
    return session


async def _ended(target: Target, tryon: AsyncTryOn, session: SessionView, output: Path | None) -> Exit:
    id = session.session_id
    if session.status is not Status.COMPLETED:
        target.say(_failure(session))
        retryable = session.error is None or session.error.retryable
        target.suggest(*([("retry", id, "--watch")] if retryable else []), ("show", id))
        return Exit.FAILED
    target.say(f"Completed in {duration(seconds_between(session.created_at, session.updated_at))}.")
    if output is None:
        target.suggest(("watch", id, "-o", "result.jpg"), ("share", id), ("delete", id, "--receipt", "receipt.json"))
        return Exit.DONE
    fresh = await tryon.get(session)  # links expire
    for number, file in enumerate(fresh.outputs, 1):
        path = _place(output, id, file, number)
        picture = await tryon.download(file.link)
        try:
            path.write_bytes(picture)
        except OSError as error:
            target.suggest(("watch", id, "-o", "result.jpg"))
            raise NotSaved(f"cannot save {path}: {error.strerror}. The picture is still on the server.") from None
        if not target.as_json:
            click.echo(path)
    target.suggest(("share", id), ("delete", id, "--receipt", "receipt.json"))
    return Exit.DONE


def _failure(session: SessionView) -> str:
    if session.error is None:
        return "The session was cancelled."
    return f"Failed: {session.error.message}  [{session.error.code}]"


def _place(output: Path, id: str, file: FileView, number: int) -> Path:
    """Return where an output goes; ``output`` is a file or a folder.

    The name is made of the answer: one of another server could lead out of the folder.
    Raises Problem.
    """
    if not valid_session_id(id) or file.type not in EXTENSIONS:
        raise Problem("unknown", "The answer names no session and picture of this product.", status=200)
    path = output / f"{id}.{EXTENSIONS[file.type]}" if output.is_dir() else output
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


# -- sessions --------------------------------------------------------------------------


async def list_sessions(target: Target, *, limit: int) -> Exit:
    """Print the newest sessions of this user."""
    async with target.open() as tryon:
        page = await tryon.list(limit=min(limit, PAGE))
        sessions = list(page.sessions)
        while page.next_cursor is not None and len(sessions) < limit:
            page = await tryon.list(limit=min(limit - len(sessions), PAGE), cursor=page.next_cursor)
            sessions += page.sessions
    if target.as_json:
        target.answer(SessionPage(sessions, page.next_cursor))
        return Exit.DONE
    if not sessions:
        target.say(f"You have no sessions on {target.server}.")
        target.suggest(("submit", "me.jpg", "--watch"))
        return Exit.DONE
    click.echo(ID.format("ID", "STATUS", "AGE", "ERASED IN"))
    for each in sessions:
        row = ID.format(each.session_id, each.status, _ago(each.created_at), _ahead(each.expires_at))
        click.echo(printable(row))
    target.suggest(("show", sessions[0].session_id))
    return Exit.DONE


async def show(target: Target, *, session: str | None) -> Exit:
    """Print everything about a session, with its history."""
    async with target.open() as tryon:
        found = await _found(tryon, session)
        events = (await tryon.history(found)).events
    fields = {name: getattr(found, name) for name in SessionView.__struct_fields__}
    target.answer(SessionWithHistory(**fields, history=events), *_about(found, events))
    if not target.as_json:
        target.suggest(*_steps(found))
    return Exit.DONE


async def cancel(target: Target, *, session: str) -> Exit:
    """Cancel a session; it may take its worker a moment to stop."""
    async with target.open() as tryon:
        found = await tryon.cancel(session)
    if found.status is Status.CANCELLED:
        words = "cancelled"
    else:
        words = f"{found.status} already" if found.terminal else "its worker is asked to stop"
    target.answer(found, words)
    target.suggest(*([("watch", session)] if not found.terminal else _steps(found)))
    return Exit.DONE


async def share(target: Target, *, session: str) -> Exit:
    """Print a link to the picture."""
    async with target.open() as tryon:
        shared = await tryon.share(session)
        whole = msgspec.structs.replace(shared, link=tryon.url(shared.link))
    target.answer(whole, whole.link)
    target.say(f"It opens the picture alone, to anyone, for {_ahead(whole.expires_at)}.")
    return Exit.DONE


async def delete(target: Target, *, sessions: Sequence[str], receipt: Path | None) -> Exit:
    """Erase sessions; print and save their receipts."""
    receipts: list[Receipt] = []
    try:
        async with target.open() as tryon:
            for session in sessions:
                receipts.append(await tryon.remove(session))
                files, upstream = receipts[-1].files, receipts[-1].upstream
                what = f"{len(files)} file{'' if len(files) == 1 else 's'}, {size(sum(file.bytes for file in files))}"
                later = (
                    "; the service that made the picture was asked to erase it, too" if upstream == "pending" else ""
                )
                target.answer(receipts[-1], f"Erased {session}: {what}{later}")
    finally:
        if receipt is not None and receipts:  # of those that were erased, though another is not found
            _keep(target, receipts if len(sessions) > 1 else receipts[0], receipt)
    return Exit.DONE


def _keep(target: Target, receipts: Receipt | list[Receipt], path: Path) -> None:
    """Save receipts, which exist once; print them if that fails. Raises NotSaved."""
    text = msgspec.json.format(msgspec.json.encode(receipts), indent=2)
    try:
        path.write_bytes(text + b"\n")
    except OSError as error:
        if not target.as_json:  # else they are printed already
            click.echo(text)
        raise NotSaved(
            f"cannot save {path}: {error.strerror}. Keep the receipt from above: it is not made again."
        ) from None


# -- words -----------------------------------------------------------------------------


async def _found(tryon: AsyncTryOn, session: str | None) -> SessionView:
    """Return the session of this id, or this user's newest. Raises Problem."""
    if session is not None:
        return await tryon.get(session)
    newest = (await tryon.list(limit=1)).sessions
    if not newest:
        raise Problem("not_found", "You have no sessions on this server.", status=404)
    return await tryon.get(newest[0])


def _about(session: SessionView, events: Sequence[HistoryEvent]) -> list[str]:
    rows = [
        ("Session", session.session_id),
        ("Status", session.status + (f" ({session.stage})" if session.stage else "")),
        ("Processor", session.processor),
        *([("Error", f"{session.error.message}  [{session.error.code}]")] if session.error else []),
        *([("Params", msgspec.json.encode(session.params).decode())] if session.params else []),
        *(("Input", _file(file)) for file in session.inputs),
        *(("Output", _file(file)) for file in session.outputs),
        ("Erased in", _ahead(session.expires_at)),
    ]
    lines = [f"{name:10} {text}" for name, text in rows]
    lines += ["", *(f"{event.at}  {event.event}" for event in events)]
    return lines


def _file(file: FileView) -> str:
    pixels = f", {file.width} x {file.height}" if file.width and file.height else ""
    return f"{file.role}, {file.type}{pixels}, {size(file.bytes)}"


def _steps(session: SessionView) -> list[tuple[str, ...]]:
    id = session.session_id
    if not session.terminal:
        return [("watch", id, "-o", "result.jpg"), ("cancel", id)]
    if session.status is Status.COMPLETED:
        return [("watch", id, "-o", "result.jpg"), ("share", id), ("delete", id, "--receipt", "receipt.json")]
    return [("retry", id, "--watch"), ("delete", id, "--receipt", "receipt.json")]


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _ago(at: str) -> str:
    return f"{duration(seconds_between(at, _now()))} ago"


def _ahead(at: str) -> str:
    return duration(seconds_between(_now(), at))
