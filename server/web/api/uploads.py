"""The body of ``POST /api/tryon/sessions``, read as it arrives: every cap is checked on
the way, nothing waits for the end.

The first bytes of each image decide at once whether the rest is worth receiving. A part
up to 1 MiB stays in memory, a larger one goes, in writes of that size and in a thread,
to an anonymous file: whatever dies, nothing stays on the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from server.adapters.files.errors import storage_error
from server.adapters.imaging.pool import ACCEPTED
from server.config.settings import Config
from server.domain.images import MAGIC_BYTES, sniff
from tryon.protocol.errors import BadRequest, TooLarge, Unprocessable, UnsupportedMedia

PARTS: Final = frozenset({"image", "garment", "params"})
IMAGES: Final = frozenset({"image", "garment"})
MAX_PARTS: Final = 16
MAX_PART_HEADERS: Final = 8
MAX_PART_HEADER_BYTES: Final = 4096
MAX_BOUNDARY_BYTES: Final = 70
"""RFC 2046 section 5.1.1."""
MAX_PARAMS_BYTES: Final = 4096
MAX_PARAMS_DEPTH: Final = 16
SPOOL_BYTES: Final = 2**20
"""What a part may hold in memory."""
PAUSE_SECONDS: Final = 30.0
"""How long a body may pause, and how far it may fall behind :data:`SLOWEST_RATE`."""
SLOWEST_RATE: Final = 4096
"""Bytes a second.

Slower on the whole is taken for an attack: a byte every 29 s would hold its connection
for years.
"""

# The parser warns of every malformed body in its own words; the caller gets a
# bad_multipart, and that is logged.
_SILENT: Final = logging.getLogger("tryon.uploads.parser")
_SILENT.setLevel(logging.CRITICAL + 1)


class Upload:
    """What one request brought. A context manager; closing it leaves nothing.

    ``fingerprint``: SHA-256 over the parts' contents, 64 hex digits; empty if it was
    not asked for. Names, types, order, boundary and the white space in ``params`` don't
    count, so a client that repeats its request gets the same one.
    """

    __slots__ = ("fingerprint", "garment", "image", "params")

    def __init__(self, image: BinaryIO, garment: BinaryIO | None, params: dict[str, Any], fingerprint: str) -> None:
        self.image = image
        self.garment = garment
        self.params = params
        self.fingerprint = fingerprint

    def __repr__(self) -> str:
        return f"<Upload garment={self.garment is not None} fingerprint={self.fingerprint[:8]}>"

    def close(self) -> None:
        self.image.close()
        if self.garment is not None:
            self.garment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def read_upload(request: Request, config: Config, *, fingerprint: bool) -> Upload:
    """Reads and checks the whole body, or stops at the first thing that is wrong with
    it. ``fingerprint``: whether to make one.

    Raises ``not_multipart``, ``bad_multipart`` (also when the client goes away or is
    too slow), ``body_too_large``, ``unsupported_image``, ``missing_image``,
    ``bad_params``, ``storage_full`` or ``unavailable``. Part of the body may then still
    be under way. Just answer, without ``Connection: close``: uvicorn throws away the
    rest, and also a client that sends everything before it listens gets the answer;
    with that header it would get a reset (both measured).
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > config.body_max_bytes:
        raise TooLarge
    form = _Form(_boundary(request.headers.get("content-type", "")), config, fingerprint)
    try:
        async for chunk in _chunks(request, config.body_max_bytes):
            form.feed(chunk)
            await form.spill()
        return await form.finish()
    finally:
        form.close()


def _boundary(content_type: str) -> bytes:
    media_type, options = parse_options_header(content_type[:MAX_PART_HEADER_BYTES])
    boundary = options.get(b"boundary", b"")
    if media_type != b"multipart/form-data" or not boundary:
        raise UnsupportedMedia("not_multipart")
    if len(boundary) > MAX_BOUNDARY_BYTES:
        raise BadRequest("bad_multipart", "The multipart boundary is longer than 70 characters.")
    return boundary


async def _chunks(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The body as it comes, under the byte cap and neither paused nor dripping."""
    began = time.monotonic()
    received = 0
    stream = request.stream()
    while True:
        spare = began + PAUSE_SECONDS + received / SLOWEST_RATE - time.monotonic()
        try:
            async with asyncio.timeout(min(PAUSE_SECONDS, spare)):
                chunk = await anext(stream, b"")
        except TimeoutError:
            raise BadRequest("bad_multipart", "The body came too slowly.") from None
        except ClientDisconnect:
            raise BadRequest("bad_multipart") from None
        if not chunk:
            return
        received += len(chunk)
        if received > max_bytes:
            raise TooLarge
        yield chunk


class _Part:
    """The content of one part: in memory, or beyond :data:`SPOOL_BYTES` in an anonymous
    file.
    """

    __slots__ = ("_buffer", "_digest", "_file", "checked", "name", "size")

    def __init__(self, name: str, fingerprint: bool) -> None:
        self.name = name
        self.size = 0
        self.checked = name not in IMAGES
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256() if fingerprint else None

    def append(self, data: bytes) -> None:
        self.size += len(data)
        self._buffer += data
        if not self.checked and self.size >= MAGIC_BYTES:
            self.check()

    def check(self) -> None:
        """Judges an image by its beginning, which is still in memory then."""
        self.checked = True
        if sniff(bytes(self._buffer[:MAGIC_BYTES])) not in ACCEPTED:
            raise UnsupportedMedia("unsupported_image")

    @property
    def pending(self) -> int:
        """Bytes in memory."""
        return len(self._buffer)

    def take(self) -> bytes:
        """What is in memory; it is no longer kept here."""
        data = bytes(self._buffer)
        self._buffer.clear()
        if self._digest is not None:
            self._digest.update(data)
        return data

    def write(self, folder: Path) -> None:
        """Moves what is in memory to the file. Blocks."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by whoever content() gives it to
        self._file.write(self.take())

    def rewind(self, folder: Path) -> None:
        """Writes the rest of a part that has a file. Blocks."""
        if self._file is not None:
            self.write(folder)
            self._file.seek(0)  # flushes, too: a full disk shows here at the latest

    @property
    def spilt(self) -> bool:
        return self._file is not None

    def content(self) -> BinaryIO:
        """Positioned at its beginning; the caller's to close from now on."""
        file, self._file = self._file, None
        return file or io.BytesIO(self.take())

    def digest(self) -> bytes:
        """Of the whole content, if it was asked for; only after :meth:`content`."""
        return self._digest.digest() if self._digest is not None else b""

    def close(self) -> None:
        self._buffer.clear()
        if self._file is not None:
            self._file.close()
            self._file = None


class _Form:
    """Takes the parser's callbacks, all of them plain functions; the writing is left to
    :meth:`spill`.
    """

    def __init__(self, boundary: bytes, config: Config, fingerprint: bool) -> None:
        self._config = config
        self._fingerprint = fingerprint
        self._parts: dict[str, _Part] = {}
        self._part: _Part | None = None
        self._seen = 0
        self._header_name = b""
        self._header_value = b""
        self._disposition: bytes | None = None
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )
        self._parser.logger = _SILENT

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise BadRequest("bad_multipart") from None

    def _on_part_begin(self) -> None:
        self._seen += 1
        if self._seen > MAX_PARTS:
            raise BadRequest("bad_multipart", f"The body has more than {MAX_PARTS} parts.")
        self._disposition = None

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            if self._disposition is not None:
                raise BadRequest("bad_multipart", "A part has two Content-Disposition headers.")
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise BadRequest("bad_multipart", "A part has no name.")  # RFC 7578 section 4.2
        text = name.decode("utf-8", "replace")
        if text not in PARTS:
            self._part = None
            return
        if text in self._parts:
            raise BadRequest("bad_multipart", f"There is more than one part named {text}.")
        self._part = self._parts[text] = _Part(text, self._fingerprint)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part is None:
            return
        if part.name == "params":
            if part.size + end - start > MAX_PARAMS_BYTES:
                raise Unprocessable("bad_params")
        elif part.size + end - start > self._config.image_max_bytes:
            raise TooLarge
        part.append(data[start:end])

    def _on_part_end(self) -> None:
        if self._part is not None and self._part.size and not self._part.checked:
            self._part.check()
        self._part = None

    def _on_end(self) -> None:
        self._ended = True

    async def spill(self) -> None:
        """Writes to disk what has grown too large for memory."""
        for part in self._parts.values():
            if part.pending > SPOOL_BYTES:
                await _in_thread(part.write, self._config.uploads_dir)

    async def finish(self) -> Upload:
        if not self._ended:
            raise BadRequest("bad_multipart")
        image, garment, params = (self._parts.get(name) for name in ("image", "garment", "params"))
        if image is None or not image.size:
            raise Unprocessable("missing_image")
        values = _params(params.take()) if params is not None else {}
        if garment is not None and not garment.size:
            garment = None  # a browser sends the empty file field of a form like this
        for part in (image, garment):
            if part is not None and part.spilt:
                await _in_thread(part.rewind, self._config.uploads_dir)
        content = image.content()
        overlay = garment.content() if garment is not None else None
        if not self._fingerprint:
            return Upload(content, overlay, values, "")
        fingerprint = hashlib.sha256(image.digest())
        fingerprint.update(garment.digest() if garment is not None else b"-")
        fingerprint.update(msgspec.json.encode(values, order="deterministic"))
        return Upload(content, overlay, values, fingerprint.hexdigest())

    def close(self) -> None:
        for part in self._parts.values():
            part.close()


async def _in_thread(write: Any, folder: Path) -> None:
    """Even if the caller is cancelled, the file is not closed while the thread still
    writes to it.
    """
    work = asyncio.ensure_future(asyncio.to_thread(write, folder))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        work.exception()  # looked at: nobody waits for it any more
        raise
    except OSError as error:
        raise storage_error(error) from error


def _params(data: bytes) -> dict[str, Any]:
    """Strict JSON (RFC 8259). Empty is an unfilled field and means none."""
    if not data.strip():
        return {}
    try:
        values = msgspec.json.decode(data, type=dict[str, Any])
        data.decode()  # msgspec checks UTF-8 only where it builds a str
    except (ValueError, RecursionError):  # DecodeError, ValidationError and UnicodeDecodeError are ValueErrors
        raise Unprocessable("bad_params") from None
    _check_params(values, 1)
    return values


def _check_params(value: Any, depth: int) -> None:
    """What every JSON encoder and both databases can keep: nested at most 16 deep,
    64-bit, no NUL.
    """
    match value:
        case str():
            if "\0" in value:
                raise Unprocessable("bad_params", "params must not contain the character NUL.")
        case int():
            if not -(2**63) <= value < 2**63:
                raise Unprocessable("bad_params", "A whole number in params has more than 64 bits.")
        case dict() | list():
            if depth > MAX_PARAMS_DEPTH:
                raise Unprocessable("bad_params", f"params may be nested at most {MAX_PARAMS_DEPTH} deep.")
            for inner in [*value.keys(), *value.values()] if isinstance(value, dict) else value:
                _check_params(inner, depth + 1)
