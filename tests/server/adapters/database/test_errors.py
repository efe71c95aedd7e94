"""The one map from the errors of SQLAlchemy and the drivers to the product's."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import exc

from server.adapters.database.errors import Taken, mapped_errors, mapped_insert_errors, reason
from tryon.protocol.errors import StorageFull, Unavailable


class DriverError(Exception):
    """An error of a driver, with the codes of SQLite and PostgreSQL."""

    def __init__(self, sqlstate: str | None = None, sqlite_errorcode: int | None = None) -> None:
        super().__init__("driver says no\nand more")
        self.sqlstate = sqlstate
        self.sqlite_errorcode = sqlite_errorcode


def wrapped(kind: type[exc.DBAPIError], *, cut: bool = False, **details: str | int) -> exc.DBAPIError:
    """Return SQLAlchemy's error around a driver's, as its engine raises it."""
    return kind("SELECT 1", {}, DriverError(**details), connection_invalidated=cut)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        wrapped(exc.OperationalError),
        wrapped(exc.InterfaceError),
        wrapped(exc.InternalError),
        wrapped(exc.DBAPIError, cut=True),
        *(wrapped(exc.DBAPIError, sqlstate=state) for state in ("08006", "25006", "40P01", "53300", "57P01", "58030")),
        exc.TimeoutError(),
        TimeoutError(),
        ConnectionRefusedError(),
    ],
    ids=repr,
)
def test_transient_error_becomes_unavailable(error: Exception) -> None:
    with pytest.raises(Unavailable) as raised, mapped_errors():
        raise error
    assert raised.value.__cause__ is error
    assert raised.value.retry_after == 2


@pytest.mark.parametrize("error", [wrapped(exc.ProgrammingError, sqlstate="42601"), ValueError()], ids=repr)
def test_defect_passes_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, mapped_insert_errors(), mapped_errors():
        raise error
    assert raised.value is error


def test_conflict_of_insert_becomes_taken() -> None:
    with pytest.raises(Taken), mapped_insert_errors(), mapped_errors():
        raise wrapped(exc.IntegrityError, sqlstate="23505")


@pytest.mark.parametrize(
    "error",
    [
        wrapped(exc.OperationalError, sqlite_errorcode=sqlite3.SQLITE_FULL),
        wrapped(exc.DBAPIError, sqlstate="53100"),
    ],
    ids=["sqlite", "postgresql"],
)
def test_full_disk_becomes_storage_full(error: Exception) -> None:
    """An insert reports a full disk; every other call is unavailable."""
    with pytest.raises(StorageFull), mapped_insert_errors(), mapped_errors():
        raise error
    with pytest.raises(Unavailable), mapped_errors():
        raise error


def test_reason_is_first_line_of_driver() -> None:
    assert reason(wrapped(exc.OperationalError)) == "driver says no"
    assert reason(OSError("no such host")) == "no such host"
