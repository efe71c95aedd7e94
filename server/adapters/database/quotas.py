"""The counts behind quotas: a day's uploads, living sessions, stored bytes.

Uploads of a day are counted in rows of their own, since an erased session counts, too.
A count is taken in the transaction that inserts the session, after its row: a request
that was answered before fails there, and a refusal of the session later takes the
count back. Until the commit the count's row is locked, so inserts for one subject come
one after the other, and the other counts are exact on PostgreSQL as well.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert

from server.adapters.database import tables
from server.adapters.database.changes import NewSession
from server.adapters.database.clock import DatabaseClock
from server.adapters.database.engine import Connections
from server.adapters.database.rows import UNFINISHED
from server.domain.quotas import Quota, QuotaUse, day_of

COUNTS_AT_ONCE: Final = 500
"""Maximum subjects whose counts are deleted in one transaction."""

_s: Final = tables.sessions.c
_q: Final = tables.quotas.c


def _counting(insert: type[postgresql.Insert] | type[sqlite.Insert]) -> ReturningInsert[Any]:
    """Return the statement that counts an upload and returns the count."""
    return (
        insert(tables.quotas)
        .values(subject=bindparam("subject"), day=bindparam("day"), uploads=1)
        .on_conflict_do_update(index_elements=[_q.subject, _q.day], set_={"uploads": _q.uploads + 1})
        .returning(_q.uploads)
    )


# Built once: building a statement takes as long as running it.
_COUNTING: Final = {"postgresql": _counting(postgresql.Insert), "sqlite": _counting(sqlite.Insert)}
_UPLOADS: Final = select(_q.uploads).where(_q.subject == bindparam("subject"), _q.day == bindparam("day"))
_LIVING: Final = select(func.count(_s.id).filter(UNFINISHED), func.coalesce(func.sum(_s.stored_bytes), 0))
_OF_OWNER: Final = _LIVING.where(_s.owner == bindparam("whose"))
_OF_ADDRESS: Final = _LIVING.where(_s.address_hash == bindparam("whose"))
_OLD: Final = select(_q.subject).where(_q.day < bindparam("today")).order_by(_q.day).limit(COUNTS_AT_ONCE)
_DELETE_OLD: Final = delete(tables.quotas).where(_q.day < bindparam("today"), _q.subject.in_(_OLD))


async def take_quota(connection: AsyncConnection, new: NewSession, quota: Quota, *, now: float) -> None:
    """Count a session that this transaction has inserted. Raises RateLimited."""
    taken = await connection.execute(_COUNTING[connection.dialect.name], {"subject": quota.subject, "day": day_of(now)})
    uploads = int(taken.scalar_one())
    quota.judge(await _use(connection, quota, uploads, new.owner, new.address_hash), now=now)


async def _use(
    connection: AsyncConnection, quota: Quota, uploads: int, owner: str, address_hash: str | None
) -> QuotaUse:
    query, whose = (_OF_ADDRESS, address_hash) if quota.by_address else (_OF_OWNER, owner)
    row = (await connection.execute(query, {"whose": whose})).one()
    return QuotaUse(uploads_per_day=uploads, concurrent_sessions=int(row[0]), stored_bytes=int(row[1]))


class QuotaCounts:
    """The reads of the counts, and their end. Methods raise Unavailable."""

    def __init__(self, connections: Connections, *, clock: DatabaseClock) -> None:
        self._connections = connections
        self._clock = clock

    def __repr__(self) -> str:
        return f"<QuotaCounts of {self._connections!r}>"

    async def uploads_today(self, quota: Quota) -> int:
        """Return how many sessions were made today for a subject."""
        values = {"subject": quota.subject, "day": day_of(self._clock.now())}
        async with self._connections.read() as connection:
            return int((await connection.execute(_UPLOADS, values)).scalar_one_or_none() or 0)

    async def use(self, quota: Quota, *, owner: str, address_hash: str | None) -> QuotaUse:
        """Return what a caller uses now."""
        uploads = await self.uploads_today(quota)
        async with self._connections.read() as connection:
            return await _use(connection, quota, uploads, owner, address_hash)

    async def delete_old(self) -> int:
        """Delete the counts of days that are over, in parts; return how many."""
        today, count = {"today": day_of(self._clock.now())}, 0
        while True:
            async with self._connections.write() as connection:
                deleted = (await connection.execute(_DELETE_OLD, today)).rowcount
            count += deleted
            if not deleted:
                return count
