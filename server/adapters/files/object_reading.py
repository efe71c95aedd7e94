"""An object opened for reading: one request for all of it, another after each seek."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from server.adapters.files.errors import unavailable
from server.adapters.files.object_calls import answer
from server.adapters.files.object_errors import StorageRefusal

if TYPE_CHECKING:
    from obstore import BytesStream, GetResult
    from obstore.store import ObjectStore

PIECE_BYTES: Final = 64 * 1024
"""Minimum bytes that are taken from an answer at once; HTTP's own pieces are not much
larger, so a download holds little memory."""


class ObjectFile:
    """An object of :class:`ObjectStoreFiles`, read from its answer piece by piece.

    State: the answer that is being read, what was taken from it and not yet returned,
    and the next position.
    """

    __slots__ = ("_at", "_etag", "_path", "_rest", "_store", "_stream", "modified_at", "size")

    def __init__(self, store: ObjectStore, path: str, found: GetResult) -> None:
        self._store = store
        self._path = path
        self._at = 0
        self._rest = b""
        meta = found.meta
        self._etag = meta["e_tag"]
        self.size = meta["size"]
        self.modified_at = meta["last_modified"].timestamp()
        self._stream: BytesStream | None = found.stream(PIECE_BYTES)

    def __repr__(self) -> str:
        return f"<ObjectFile {self.size} bytes at {self._at}>"

    async def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes; fewer only at the end."""
        wanted = max(0, min(count, self.size - self._at))
        while len(self._rest) < wanted:
            if self._stream is None:
                self._stream = await self._ask_again()
            try:
                piece = await answer(_next(self._stream))
            except BaseException:
                self._stream = None
                raise
            if piece is None:  # the storage ended early
                self._stream = None
                raise unavailable() from StorageRefusal("it ended its answer early")
            self._rest += piece
        data, self._rest = self._rest[:wanted], self._rest[wanted:]
        self._at += len(data)
        return data

    async def _ask_again(self) -> BytesStream:
        """Ask for the rest behind the bytes that are held already.

        The object must be the one that was opened: a replaced one is Unavailable.
        """
        import obstore

        options: obstore.GetOptions = {"range": {"offset": self._at + len(self._rest)}}
        if self._etag is not None:
            options["if_match"] = self._etag
        try:
            found = await answer(obstore.get_async(self._store, self._path, options=options))
        except FileNotFoundError:
            raise unavailable() from StorageRefusal("the object is gone")
        return found.stream(PIECE_BYTES)

    async def seek(self, position: int) -> int:
        """Continue at this byte; the next read asks for it."""
        if position != self._at:
            self._stream, self._rest, self._at = None, b"", position
        return position

    async def aclose(self) -> None:
        """Drop the answer, which closes its connection if it has not ended."""
        self._stream, self._rest = None, b""


async def _next(stream: BytesStream) -> bytes | None:
    """Return the next piece of an answer; None at its end."""
    try:
        return bytes(await stream.__anext__())
    except StopAsyncIteration:
        return None
