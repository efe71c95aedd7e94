"""The hourly cleanup: files, events and Redis keys that no session owns any more.

A process that is killed at the wrong moment leaves them behind. Two small chores follow
each erasure: Redis and SQLite forget the bytes that they still hold in their logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from server.adapters.database.reading import SessionReader
from server.adapters.database.upkeep import Upkeep
from server.adapters.files.port import PAGE_KEYS, Entry, Files
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue
from server.domain.session import valid_session_id
from server.reconciler import timing
from server.sessions.erased_bytes import ErasedBytes
from server.sessions.erasure import Erasure
from server.sessions.file_keys import session_of
from tryon.protocol.errors import Unavailable

log = logging.getLogger("tryon.reconciler")


class Cleanup:
    """Deletes the leftovers of killed processes, and the traces of erasures; stateless.

    ``page_keys``: the number of files whose sessions are looked up at a time.
    """

    def __init__(
        self,
        *,
        reader: SessionReader,
        upkeep: Upkeep,
        files: Files,
        bus: RedisBus,
        queue: ArqQueue,
        erasure: Erasure,
        erased_bytes: ErasedBytes,
        page_keys: int = PAGE_KEYS,
    ) -> None:
        self._reader = reader
        self._upkeep = upkeep
        self._files = files
        self._bus = bus
        self._queue = queue
        self._erasure = erasure
        self._erased_bytes = erased_bytes
        self._page_keys = page_keys

    async def clean_up(self) -> None:
        """Delete the files, events and Redis keys that belong to no session.

        Unfinished files of killed writers are among them. Raises Unavailable.
        """
        page = await self._files.list_page(limit=self._page_keys)
        while True:
            await self._delete_orphans(page.entries)
            if page.after is None:
                break
            page = await self._files.list_page(after=page.after, limit=self._page_keys)
        if strays := await self._upkeep.delete_stray_events():
            log.info("Deleted %d events without a session", strays)
        await self._clean_up_redis()
        self._erased_bytes.note()

    async def forget_traces(self) -> None:
        """Delete the Redis keys that could not be deleted before.

        Then have Redis rewrite its append-only file, which holds every command.
        """
        if await self._erasure.retry_forgetting():
            await self._bus.rewrite_log()

    async def scrub_forever(self) -> None:
        """Empty SQLite's write-ahead log soon after each erasure, until cancelled."""
        while True:
            await self._erased_bytes.wait()
            await asyncio.sleep(timing.SCRUB_SECONDS)
            await self.scrub()

    async def scrub(self) -> None:
        """Empty SQLite's write-ahead log once.

        If that is not possible now, or cancelled, it stays to be done.
        """
        try:
            with self._erased_bytes.being_emptied():
                if not await self._upkeep.scrub():
                    self._erased_bytes.note()
        except Unavailable:
            self._erased_bytes.note()
        except Exception:
            log.exception("SQLite's log could not be emptied")

    async def _delete_orphans(self, entries: list[Entry]) -> None:
        """Delete files without a session.

        A result is stored after its row, so one without a row is an orphan at any age.
        """
        old = [
            each
            for each in entries
            if each.age_seconds > timing.ORPHAN_SECONDS or (each.key.startswith("outputs/") and not each.unfinished)
        ]
        living = await self._reader.ids_among(dict.fromkeys(session_of(each.key) for each in old))
        orphans = [each.key for each in old if each.unfinished or session_of(each.key) not in living]
        for key in await self._files.delete(orphans):
            log.info("Deleted orphaned file: %s", key)

    async def _clean_up_redis(self) -> None:
        with contextlib.suppress(QueueUnavailable):
            known = await self._bus.remembered() | {
                id for id in await self._queue.order(1_000_000) if valid_session_id(id)
            }
            if strays := known - await self._reader.ids_among(known):
                await self._queue.forget_waiting(strays)
                await self._bus.forget(sorted(strays))
                log.info("Deleted the Redis keys of %d sessions that no longer exist", len(strays))
