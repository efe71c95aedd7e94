"""A multipart upload: a stream stored part by part, whole or not at all.

Parts that were sent are kept by the storage, unlisted, until the upload is completed or
aborted. ``obstore`` aborts it when the stream raises, and never when the call itself is
cancelled: so an upload that is given up ends its stream with an error, and waits a
moment for the abort. What a killed process leaves is for a lifecycle rule of the bucket
(docs/storage.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import obstore

from server.adapters.files.object_calls import CANCEL_SECONDS, upload_seconds
from server.adapters.files.object_errors import refuse

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store

PART_BYTES: Final = 8 * 2**20
"""Size of a part."""

PARTS_AT_ONCE: Final = 2
"""Parts of one upload in flight: with the one that is being filled they bound the
memory of a stream at three parts."""

PART_SECONDS: Final = upload_seconds(PART_BYTES * PARTS_AT_ONCE)
"""Maximum time that the storage takes no further part."""


class PartsUpload:
    """One upload. State: the wait for the source, and whether it was given up."""

    def __init__(self, source: AsyncIterator[bytes], begin: bytes) -> None:
        self._source = source
        self._begin = begin
        self._reading: asyncio.Future[bytes] | None = None
        self._given_up = False
        self._failed: BaseException | None = None
        self._bound: asyncio.Timeout = asyncio.timeout(PART_SECONDS)

    def __repr__(self) -> str:
        return f"<PartsUpload{' given up' if self._given_up else ''}>"

    async def send(self, store: S3Store | GCSStore | AzureStore, path: str, attributes: dict[str, str]) -> None:
        """Store the stream; raise what it raises, StorageFull or Unavailable.

        The storage has a bounded time for each part; the wait for the source has none.
        """
        sending = asyncio.ensure_future(
            obstore.put_async(
                store,
                path,
                self._pieces(),
                attributes=attributes,
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
        )
        try:
            async with self._bound:
                await asyncio.shield(sending)
        except BaseException as error:
            await self._give_up(sending)
            if self._failed is not None:
                raise self._failed from None
            if isinstance(error, Exception):
                refuse(error, writes=True)
            raise

    async def _pieces(self) -> AsyncIterator[bytes]:
        """Yield the stream to obstore; an error of it aborts the upload."""
        yield self._begin
        loop = asyncio.get_running_loop()
        while True:
            if self._given_up:
                raise ConnectionAbortedError
            self._bound.reschedule(None)
            self._reading = asyncio.ensure_future(anext(self._source, b""))
            try:
                piece = await self._reading
            except asyncio.CancelledError:
                raise ConnectionAbortedError from None
            except Exception as error:
                self._failed = error
                raise
            self._bound.reschedule(loop.time() + PART_SECONDS)
            if not piece:
                return
            yield piece

    async def _give_up(self, sending: asyncio.Future[Any]) -> None:
        """End the stream with an error, and wait a moment for the abort."""
        self._given_up = True
        if self._reading is not None:
            self._reading.cancel()
        if not sending.done():
            await asyncio.wait({sending}, timeout=CANCEL_SECONDS)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
