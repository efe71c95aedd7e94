"""Values of the domain for tests that need no database."""

from __future__ import annotations

import itertools
import os
import time
from datetime import UTC, datetime
from typing import Any, Final

from server.domain.session import AuditEvent, session_id_of
from tryon.protocol.states import Event, Status
from tryon.protocol.views import Links, SessionView

SESSION_ID: Final = "01990000-0000-7000-8000-000000000001"
AT: Final = datetime(2026, 11, 22, 9, 0, 0, 123456, UTC)


def audit_event(**changed: Any) -> AuditEvent:
    """Return the second event of a session, by worker ``w1``, with these changes."""
    settings: dict[str, Any] = {
        "session_id": SESSION_ID,
        "seq": 2,
        "event": Event.PROCESSING,
        "from_status": Status.CREATED,
        "status": Status.PROCESSING,
        "at": AT,
        "attempt": 1,
        "actor": "worker:w1",
        "data": {"attempt": 1},
    }
    return AuditEvent(**settings | changed)


_numbers = itertools.count()


def new_session_id() -> str:
    """Return a session id of this moment, greater than the ones before it.

    Unlike the product's, ids of one millisecond sort by creation, too.
    """
    return session_id_of(time.time(), next(_numbers).to_bytes(6, "big") + os.urandom(4))


def session_view(**changed: Any) -> SessionView:
    """Return a session as clients see it, waiting at ``seq`` 1, with these changes."""
    settings: dict[str, Any] = {
        "session_id": "s",
        "status": Status.CREATED,
        "seq": 1,
        "terminal": False,
        "attempt": 0,
        "stage": None,
        "progress": None,
        "queue_position": None,
        "eta_seconds": None,
        "error": None,
        "created_at": "",
        "updated_at": "",
        "deadline": "",
        "expires_at": "",
        "processor": "mock",
        "retry_of": None,
        "copy_of": None,
        "params": {},
        "seed": 0,
        "step": None,
        "steps": None,
        "upstream_position": None,
        "inputs": [],
        "outputs": [],
        "preview": None,
        "links": Links("/s", "/s/ws", "/s/events", "/files/input", None, None),
    }
    return SessionView(**settings | changed)
