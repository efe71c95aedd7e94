"""The hourly cleanup: files, events and Redis keys that no session owns any more.

A process that is killed at the wrong moment leaves them behind. Two small chores follow
each erasure: Redis and SQLite forget the bytes that they still hold in their logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from server.adapters.database.operator_actions import OperatorActions
from server.adapters.database.quotas import QuotaCounts
from server.adapters.database.reading import SessionReader
from server.adapters.database.upkeep import Upkeep
from server.adapters.files.port import PAGE_KEYS, Entry, Files
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue
from server.domain.operator import ACTION_DAYS
from server.domain.session import valid_session_id
from server.reconciler import timing
from server.sessions.erased_bytes import ErasedBytes
from server.sessions.erasure import Erasure
from server.sessions.file_keys import RESULTS, is_ours, session_of
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
        quotas: QuotaCounts,
        operator_actions: OperatorActions,
        files: Files,
        bus: RedisBus,
        queue: ArqQueue,
        erasure: Erasure,
        erased_bytes: ErasedBytes,
        page_keys: int = PAGE_KEYS,
    ) -> None:
        self._reader = reader
        self._upkeep = upkeep
        self._quotas = quotas
        self._operator_actions = operator_actions
        self._files = files
        self._bus = bus
        self._queue = queue
        self._erasure = erasure
        self._erased_bytes = erased_bytes
        self._page_keys = page_keys

    async def clean_up(self) -> None:
        """Delete the files, events and Redis keys that belong to no session.

        Unfinished files of killed writers are among them. Raises Unavailable, after it
        has done what it could.
        """
        unavailable: Unavailable | None = None
        try:
            await self._clean_up_files()
        except Unavailable as error:
            unavailable = error
        if strays := await self._upkeep.delete_stray_events():
            log.info("Deleted %d events without a session", strays)
        if old := await self._operator_actions.delete_old(days=ACTION_DAYS):
            log.info("Deleted %d old actions of operators", old)
        await self._quotas.delete_old()
        await self._clean_up_redis()
        self._erased_bytes.note()
        if unavailable is not None:
            raise unavailable

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

    async def _clean_up_files(self) -> None:
        """Delete files without a session; count the entries that stay, in one line.

        A folder may hold what other programs left there (``Thumbs.db``). Nothing is
        deleted, or asked of the database, that the product cannot have written.
        """
        foreign = undeletable = 0
        after: str | None = None
        while True:
            page = await self._files.list_page(after=after, limit=self._page_keys)
            ours = [entry for entry in page.entries if is_ours(entry.key)]
            foreign += page.foreign + len(page.entries) - len(ours)
            undeletable += await self._delete_orphans(ours)
            after = page.after
            if after is None:
                break
        if foreign or undeletable:
            log.warning(
                "Cleanup left %d foreign entries in the storage, and %d orphaned files that it could not delete",
                foreign,
                undeletable,
            )

    async def _delete_orphans(self, entries: list[Entry]) -> int:
        """Delete files without a session, and return how many could not be deleted.

        A result is stored after its row, so one without a row is an orphan at any age.
        """
        old = [
            each
            for each in entries
            if each.age_seconds > timing.ORPHAN_SECONDS or (each.key.startswith(RESULTS) and not each.unfinished)
        ]
        living = await self._reader.ids_among(dict.fromkeys(session_of(each.key) for each in old))
        undeletable = 0
        for key in (each.key for each in old if each.unfinished or session_of(each.key) not in living):
            try:
                if await self._files.delete([key]):  # each alone: one that cannot be deleted stops no other
                    log.info("Deleted orphaned file: %s", key)
            except Unavailable:
                undeletable += 1
        return undeletable

    async def _clean_up_redis(self) -> None:
        with contextlib.suppress(QueueUnavailable):
            known = await self._bus.remembered() | {
                id for id in await self._queue.order(1_000_000) if valid_session_id(id)
            }
            if strays := known - await self._reader.ids_among(known):
                await self._queue.forget_waiting(strays)
                await self._bus.forget(sorted(strays))
                log.info("Deleted the Redis keys of %d sessions that no longer exist", len(strays))
