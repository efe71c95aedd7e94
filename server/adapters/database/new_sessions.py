"""The values of a new session's row, and the data of its first event."""

from __future__ import annotations

from collections.abc import Mapping

from server.adapters.database.changes import NewSession
from server.adapters.database.rows import to_json
from server.adapters.database.usage_events import METERED
from server.domain.frames import files_data
from server.domain.session import AuditEvent, Session
from server.telemetry import tracing
from tryon.protocol.states import Event, Status
from tryon.protocol.views import EventData


def created_data(session: Session, *, seed_chosen: bool) -> EventData:
    """Return the data of a session's first event; files are named by their keys."""
    inputs = session.inputs
    named = {
        "input": next((file.key for file in inputs), None),
        "garment": next((file.key for file in inputs if file.role == "garment"), None),
        "inputs": files_data(inputs),
        "params": session.params,
        "seed": session.seed,
        "seed_chosen": seed_chosen or None,
        "retry_of": session.retry_of,
        "copy_of": session.copy_of,
        "trace": tracing.shown(session.trace),
    }
    return {name: value for name, value in named.items() if value is not None}


def created_event(session: Session, *, seed_chosen: bool) -> AuditEvent:
    """Return a session's first event."""
    return AuditEvent(
        session_id=session.id,
        seq=1,
        event=Event.CREATED,
        from_status=None,
        status=Status.CREATED,
        at=session.created_at,
        attempt=0,
        actor="client",
        data=created_data(session, seed_chosen=seed_chosen),
    )


def session_values(new: NewSession) -> Mapping[str, object]:
    """Return the values of a new session that are not times."""
    return {
        "id": new.id,
        "owner": new.owner,
        "status": Status.CREATED.value,
        "seq": 1,
        "attempt": 0,
        "burnt": 0,
        "enqueues": 1,
        "cancel_requested": False,
        "processor": new.processor,
        "params": to_json(new.params),
        "seed": new.seed,
        "error_retryable": False,
        "request_id": new.request_id,
        "trace": new.trace,
        "idempotency_key": new.idempotency_key,
        "idempotency_fingerprint": new.idempotency_fingerprint,
        "retry_of": new.retry_of,
        "copy_of": new.copy_of,
        "stored_bytes": sum(file.bytes for file in new.files),
        "address_hash": new.address_hash,
        "deadline_seconds": new.deadline_seconds,
        "retention_seconds": new.retention_seconds,
        "fixed_expires_at": new.expires_at,
        "metered": METERED if new.metered else 0,
    }
