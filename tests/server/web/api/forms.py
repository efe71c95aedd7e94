"""Multipart bodies, and an application that answers with the upload as it was read."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import random
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from server.adapters.files.threads import StorageThreads
from server.config.settings import Config
from server.sessions.roles import DEFAULT_ROLES, Roles
from server.system.clock import SystemClock
from server.web.api.upload_slots import UploadSlots
from server.web.api.uploads import read_upload
from tryon.protocol.errors import TryOnError

BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
JPEG = b"\xff\xd8\xff\xe0" + random.Random(1).randbytes(300)
PNG = b"\x89PNG\r\n\x1a\n" + random.Random(2).randbytes(200) + b"\r\n--" + BOUNDARY.encode()[:20] + b"\r\n-"

Answer = dict[str, Any]
Post = Callable[..., Any]


def app(config: Config, heard: asyncio.Queue[Answer] | None = None, roles: Roles = DEFAULT_ROLES) -> Starlette:
    """Return an application that answers with the upload as it was read.

    It also puts the answer into ``heard``, because a disconnected client cannot be
    answered.
    """
    slots = UploadSlots(config)

    async def submit(request: Request) -> JSONResponse:
        try:
            with (
                slots.taken("") as slot,
                contextlib.closing(
                    await read_upload(
                        request, config, SystemClock(), StorageThreads(), slot, roles=roles, fingerprint=True
                    )
                ) as upload,
            ):
                read = [(each.role, sha(each.content.read())) for each in upload.images]
                answer: Answer = {
                    "code": "ok",
                    "image": next((digest for role, digest in read if role == "person"), None),
                    "garment": next((digest for role, digest in read if role == "garment"), None),
                    "images": read,
                    "params": upload.params,
                    "fingerprint": upload.fingerprint,
                    "in_memory": isinstance(upload.images[0].content, io.BytesIO),
                }
            status = 201
        except TryOnError as error:
            answer, status = {"code": error.code} | ({"part": error.part} if error.part else {}), error.status
        if heard is not None:
            heard.put_nowait(answer)
        return JSONResponse(answer, status)

    return Starlette(routes=[Route("/", submit, methods=["POST"])])


def part(name: str, content: bytes, *headers: str, filename: str | None = None) -> bytes:
    """Return one part of a form."""
    shown = f'; filename="{filename}"' if filename is not None else ""
    lines = [f'Content-Disposition: form-data; name="{name}"{shown}', *headers]
    return "\r\n".join([f"--{BOUNDARY}", *lines, "", ""]).encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    """Return a whole body."""
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def sha(data: bytes) -> str:
    """Return the SHA-256 as hex digits."""
    return hashlib.sha256(data).hexdigest()
