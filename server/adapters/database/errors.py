"""The one map from foreign errors (SQLAlchemy, SQLite, PostgreSQL) to the product's.

::

    from below                                          becomes
    --------------------------------------------------  ------------------------------
    OperationalError, InterfaceError, InternalError,    Unavailable, retry after 2 s
      TimeoutError (of the pool), OSError
    DBAPIError that cut the connection, or has one of   Unavailable, retry after 2 s
      the TRANSIENT_STATES
    IntegrityError of an insert                         Taken
    a full disk, at an insert                           StorageFull
    everything else                                     itself: a defect

An error of a driver stays the cause of the product's, for the log. It holds no stored
values, because the engine hides a statement's parameters.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Final

from sqlalchemy import exc

from server.telemetry import metrics
from tryon.protocol.errors import StorageFull, Unavailable

RETRY_AFTER_SECONDS: Final = 2
"""Pause that a client is asked to make while the database is unavailable."""

TRANSIENT_STATES: Final = ("08", "25006", "40", "53", "55", "57", "58")
"""SQLSTATE prefixes of transient failures (PostgreSQL's manual, appendix A): no
connection, read-only after a fail-over, deadlock, out of resources or connections, in
recovery, shutting down or starting up, input/output. SQLAlchemy has no class for them.
"""

_LOST_STATES: Final = ("08", "25006", "57P")
"""Transient states in which the server cannot be reached, or was restarted."""

_BOUNDS: Final = {"57014": "statement", "55P03": "lock"}
"""The time-outs of PostgreSQL's own, by SQLSTATE (query_canceled, lock_not_available).
"""

DISK_FULL: Final = "53100"
"""SQLSTATE of a full disk."""

CANNOT_CONNECT: Final = (exc.OperationalError, exc.InterfaceError, exc.InternalError, sqlite3.Error, OSError)
"""Errors of a database that cannot be used at all: wrong address, password or file, or
a standby.
"""


class Taken(Exception):
    """A conflict at an insert.

    The id or the idempotency key is used already, or the original has a retry already.
    """


@contextlib.contextmanager
def mapped_errors() -> Iterator[None]:
    """Raise Unavailable for a transient error of the database; let defects pass."""
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError, exc.InternalError, OSError) as error:
        raise _unavailable(error) from error
    except exc.DBAPIError as error:
        if error.connection_invalidated or _sqlstate(error).startswith(TRANSIENT_STATES):
            raise _unavailable(error) from error
        raise


@contextlib.contextmanager
def mapped_insert_errors() -> Iterator[None]:
    """Raise Taken for a conflict and StorageFull for a full disk.

    It stands around :func:`mapped_errors`, which has mapped all others by then.
    """
    try:
        yield
    except exc.IntegrityError as error:
        raise Taken from error
    except Unavailable as error:
        if disk_is_full(error.__cause__):
            raise StorageFull from error
        raise


def reason(error: BaseException) -> str:
    """Return the first line of the driver's own text, without SQLAlchemy's frame."""
    cause = getattr(error, "orig", None) or error
    return next(iter(str(cause).splitlines()), type(cause).__name__)


def _unavailable(error: BaseException) -> Unavailable:
    metrics.database_refusals.labels(_bound_met(error)).inc()
    return Unavailable(detail="The database cannot be used right now.", retry_after=RETRY_AFTER_SECONDS)


def _bound_met(error: BaseException) -> str:
    """Return the bound that a call has met; ``lost``: the database itself failed."""
    if isinstance(error, exc.TimeoutError):
        return "pool"
    if isinstance(error, TimeoutError):
        return "time"
    return _BOUNDS.get(_sqlstate(error), "lost") if isinstance(error, exc.DBAPIError) else "lost"


def server_lost(error: BaseException | None) -> bool:
    """Return whether the server could not be reached, or cut the connection.

    Not so a bound of the server that was met while it served others: a lock, a full
    disk, or the pool. A time-out of ours is none of these: a server that says nothing
    may be gone.
    """
    if isinstance(error, exc.DBAPIError):
        return error.connection_invalidated or _sqlstate(error).startswith(_LOST_STATES)
    return isinstance(error, OSError)


def _sqlstate(error: exc.DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def disk_is_full(error: BaseException | None) -> bool:
    """Return whether this error of a driver reports a full disk."""
    if not isinstance(error, exc.DBAPIError):
        return False
    return getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or _sqlstate(error) == DISK_FULL
