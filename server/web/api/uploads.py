"""The body of ``POST /api/tryon/sessions``, read and checked as it arrives.

:mod:`~server.web.api.form` parses it, chunk by chunk, and stops at the first thing that
is wrong; the first bytes of each image decide at once whether the rest is worth
receiving. A part up to 1 MiB stays in memory; a larger one goes, in writes of that size
and in a thread, to an anonymous file.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from starlette.requests import ClientDisconnect, Request

from server.adapters.files.errors import storage_error
from server.adapters.files.threads import StorageThreads
from server.config.settings import Config
from server.sessions.roles import Roles
from server.system.clock import Clock
from server.web.api.form import ORIGINAL, PARAMS, WEBHOOK, Form, boundary_of
from server.web.api.pace import Pace
from server.web.api.params import parse_params
from server.web.api.upload_slots import UploadSlot
from tryon.protocol.errors import BadRequest, TooLarge, TooSlow, UnsupportedMedia
from tryon.protocol.numbers import whole_number
from tryon.protocol.views import Params

SPOOL_BYTES: Final = 2**20
"""Maximum bytes of a part in memory."""

SLICE_BYTES: Final = 64 * 1024
"""Maximum bytes that are parsed before the event loop goes on: 0.2 ms at worst.

A chunk of uvicorn's has up to five times as many.
"""


@dataclass(frozen=True, slots=True)
class UploadedImage:
    """One image of an upload: its role, and the part that carried it."""

    role: str
    part: str
    content: BinaryIO


@dataclass(frozen=True, slots=True, repr=False)
class Upload:
    """The content of one upload; after :meth:`close` nothing of it is left.

    ``images``: in the order of the roles. ``fingerprint``: SHA-256 over roles and
    contents, 64 hex digits; empty if it was not asked for. Names, types, order,
    boundary and the white space in ``params`` don't count, so a client that repeats its
    request gets the same one.
    """

    images: tuple[UploadedImage, ...]
    params: Params
    original: str
    """Id of the session whose photos are copied; empty: none."""
    webhook: str
    """Address that is called when the session ends; empty: that of the settings."""
    fingerprint: str
    threads: StorageThreads

    def __repr__(self) -> str:
        return f"<Upload {[image.role for image in self.images]} fingerprint={self.fingerprint[:8]}>"

    def close(self) -> None:
        """Let the images go; a file is closed in a thread, for its storage may hang."""
        for content in (image.content for image in self.images):
            if isinstance(content, io.BytesIO):
                content.close()
            else:
                self.threads.run_later(content.close)


async def read_upload(
    request: Request,
    config: Config,
    clock: Clock,
    threads: StorageThreads,
    slot: UploadSlot,
    *,
    roles: Roles,
    fingerprint: bool,
) -> Upload:
    """Return the checked content of the whole body.

    ``roles``: the images that it may hold. ``fingerprint``: whether to make one. Raises
    ``not_multipart``, ``unsupported_encoding``, ``bad_multipart`` (also when the client
    disconnects), ``too_slow``, ``body_too_large``, ``unsupported_image``,
    ``missing_image``, ``unknown_input``, ``bad_params``, ``rate_limited`` (the bytes of
    ``slot``), ``storage_full`` or ``unavailable``, each as early as it can be known.

    Part of the body may then still be on its way. Just answer: the rest is discarded,
    and a client that sends everything before it reads gets the answer, too. Where the
    connection ends with the answer, :mod:`server.web.serving.http` ends it late enough.
    """
    if (whole_number(request.headers.get("content-length", "")) or 0) > config.body_max_bytes:
        raise TooLarge
    codings = request.headers.get("content-encoding", "identity").split(",")
    if any(coding.strip().lower() != "identity" for coding in codings):
        raise UnsupportedMedia("unsupported_encoding")
    form = Form(
        boundary_of(request.headers.getlist("content-type")),
        roles=roles,
        image_max_bytes=config.image_max_bytes,
        fingerprint=fingerprint,
    )
    folder = config.uploads_dir if config.storage_url is None else config.data_dir  # for nameless files
    parsed = 0
    try:
        async for chunk in _chunks(request, clock, config.body_max_bytes):
            for at in range(0, len(chunk), SLICE_BYTES):
                piece = chunk[at : at + SLICE_BYTES]
                parsed += len(piece)
                if parsed > SLICE_BYTES:
                    await asyncio.sleep(0)  # the event loop goes on, also between chunks that wait already
                    parsed = len(piece)
                form.feed(piece)
                slot.hold(form.size)
                for part in form.parts:
                    if part.pending > SPOOL_BYTES:
                        await _in_thread(threads, part.write, folder)
        return await _finish(form, folder, threads, fingerprint=fingerprint)
    finally:
        for part in form.parts:
            if part.spilt:
                threads.run_later(part.close)
            else:
                part.close()


async def _chunks(request: Request, clock: Clock, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the body as it comes.

    Raises TooLarge above ``max_bytes``, TooSlow below the slowest pace, and BadRequest
    if the body ends with the connection.
    """
    pace = Pace()
    received, waited = 0, 0.0
    stream = request.stream()
    while True:
        began = clock.monotonic()
        if waited >= pace.deadline:
            raise TooSlow
        try:
            async with asyncio.timeout(pace.deadline - waited):
                chunk = await anext(stream, b"")
        except TimeoutError:
            raise TooSlow from None
        except ClientDisconnect:
            raise BadRequest("bad_multipart", "The connection ended before the body.") from None
        if not chunk:
            return
        waited += clock.monotonic() - began
        received += len(chunk)
        if received > max_bytes:
            raise TooLarge
        pace.note(waited, len(chunk))
        yield chunk


async def _finish(form: Form, folder: Path, threads: StorageThreads, *, fingerprint: bool) -> Upload:
    form.end()
    parts = form.inputs()
    values = parse_params(form.text(PARAMS))
    original, webhook = (form.text(name).decode("utf-8", "replace").strip() for name in (ORIGINAL, WEBHOOK))
    for part in parts:
        if part.spilt:
            await _in_thread(threads, part.rewind, folder)
    images = tuple(UploadedImage(part.role.name, part.name, part.content()) for part in parts if part.role)
    if not fingerprint:
        return Upload(images, values, original, webhook, "", threads)
    digest = hashlib.sha256()
    for image, part in zip(images, parts, strict=True):
        digest.update(b"%s=%s;" % (image.role.encode(), part.digest()))
    digest.update(msgspec.json.encode(values, order="deterministic"))
    if original or webhook:
        digest.update(msgspec.json.encode([original, webhook]))
    return Upload(images, values, original, webhook, digest.hexdigest(), threads)


async def _in_thread(threads: StorageThreads, write: Callable[[Path], None], folder: Path) -> None:
    """Run ``write`` in a thread of the storage. Raises StorageFull, Unavailable."""
    try:
        await threads.run(write, folder)
    except OSError as error:
        raise storage_error(error) from error
