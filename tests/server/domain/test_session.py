"""Session ids and timestamps."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime, timedelta, timezone

from server.domain.session import session_id_of, timestamp, valid_session_id

NOW = 1_795_338_000.123
ID = session_id_of(NOW, b"0123456789")


def test_session_id_is_uuid_version_7() -> None:
    """The id holds the milliseconds of its creation (RFC 9562 section 5.7)."""
    parsed = uuid.UUID(ID)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == 1_795_338_000_123


def test_session_ids_sort_by_creation() -> None:
    """An id made a millisecond later is greater, whatever its random bits are."""
    assert session_id_of(NOW, b"\xff" * 10) < session_id_of(NOW + 0.002, b"\x00" * 10)


def test_session_ids_differ_by_random_bits() -> None:
    """Ids of the same millisecond differ, as 74 of their bits are random."""
    assert len({session_id_of(NOW, os.urandom(10)) for _ in range(1000)}) == 1000
    assert session_id_of(NOW, b"0123456789") == ID


def test_session_id_is_valid_only_in_canonical_form() -> None:
    """Other spellings of the same UUID do not name a session."""
    assert valid_session_id(ID)
    for other in (ID.upper(), ID.replace("-", ""), f"{{{ID}}}", f"urn:uuid:{ID}", "", "x" * 36, ID[:-1], ID + " "):
        assert not valid_session_id(other), other


def test_timestamp_is_utc_with_milliseconds() -> None:
    """Other time zones are converted, microseconds cut off."""
    assert timestamp(datetime(2026, 1, 2, 3, 4, 5, 6789, UTC)) == "2026-01-02T03:04:05.006Z"
    there = timezone(timedelta(hours=2))
    assert timestamp(datetime(2026, 1, 2, 3, 4, 5, 0, there)) == "2026-01-02T01:04:05.000Z"
