"""The SQL of one transition: updates a session's row and inserts its event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, assert_never

from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement

from server.adapters.database import tables
from server.adapters.database.changes import Begin, Cancel, Complete, Fail, Moved, Outcome, Requeue, SavedUsage, Usage
from server.adapters.database.cleanups import CleanupKind, add_cleanups
from server.adapters.database.rows import SESSION_COLUMNS, add_files, to_json, to_session
from server.adapters.database.tables import current_xact, database_time
from server.adapters.database.usage_events import METERED, Ended, add_usage_events
from server.domain.frames import files_data
from server.domain.session import AuditEvent, Session
from server.telemetry import tracing
from tryon.protocol.states import TRANSITIONS, Status

_INSERT_EVENT: Final = insert(tables.events).values(xact=current_xact())


async def move(
    connection: AsyncConnection,
    rows: ColumnElement[bool],
    before: Status,
    outcome: Outcome,
    *,
    actor: str,
    usage: Usage | SavedUsage | None = None,
) -> list[Moved]:
    """Move every row that meets the condition ``rows``, and add an event for each.

    The condition must include the state ``before``; the pair of it and the outcome's
    event must stand in :data:`~tryon.protocol.states.TRANSITIONS`.
    ``usage``: as in :class:`Change`; a call is made for running sessions alone, since
    the attempt of the others has ended, with an event that has it.
    """
    after = TRANSITIONS[before, outcome.event]
    columns: dict[str, Any] = {"status": after.value, "seq": tables.sessions.c.seq + 1, "updated_at": database_time()}
    if after is not Status.PROCESSING:
        columns |= {"lease_owner": None, "lease_expires_at": None}
    if after.terminal:
        columns["finished_at"] = database_time()
    columns |= _columns(outcome)
    checkpoint = tables.sessions.c.checkpoint
    result = await connection.execute(
        update(tables.sessions)
        .where(rows)
        .values(**columns)
        .returning(*SESSION_COLUMNS, checkpoint, tables.sessions.c.metered, tables.sessions.c.stored_bytes)
    )
    moved = []
    ended = []
    for row in result.all():
        session = to_session(row)
        if after.terminal and not isinstance(outcome, Complete):
            await add_cleanups(connection, CleanupKind.CANCEL, [(row[-3], session.expires_at)])
        if isinstance(outcome, Complete):
            await add_files(connection, session.id, outcome.outputs)
            session = replace(session, files=tuple(sorted((*session.files, *outcome.outputs))))
        event = AuditEvent(
            session_id=session.id,
            seq=session.seq,
            event=outcome.event,
            from_status=before,
            status=session.status,
            at=session.updated_at,
            attempt=session.attempt,
            actor=actor,
            data=_event_data(outcome, session) | _more_data(session, _used(usage, before, session.attempt, row[-3])),
        )
        await add_event(connection, event)
        moved.append(Moved(session, event))
        if after.terminal and row[-2] == METERED:
            ended.append(Ended(session, session.status.value, session.updated_at, row[-1]))
    await add_usage_events(connection, ended)
    return moved


def _used(usage: Usage | SavedUsage | None, before: Status, attempt: int, checkpoint: str | None) -> Usage | None:
    if usage is None or isinstance(usage, Mapping):
        return usage
    return None if checkpoint is None or before is not Status.PROCESSING else usage(checkpoint, attempt)


def _more_data(session: Session, usage: Usage | None) -> dict[str, Any]:
    """Return the data that any event may have."""
    found = {"usage": dict(usage) if usage else None, "trace": tracing.shown(session.trace)}
    return {name: value for name, value in found.items() if value is not None}


async def add_event(connection: AsyncConnection, event: AuditEvent) -> None:
    """Append an event to the audit trail."""
    await connection.execute(
        _INSERT_EVENT,
        {
            "session_id": event.session_id,
            "seq": event.seq,
            "event": event.event.value,
            "from_status": event.from_status and event.from_status.value,
            "status": event.status.value,
            "at": event.at,
            "attempt": event.attempt,
            "actor": event.actor,
            "data": to_json(event.data),
        },
    )


def _columns(outcome: Outcome) -> dict[str, Any]:
    """Return the columns that this outcome sets beyond state, seq and times."""
    match outcome:
        case Begin():
            return {
                "attempt": tables.sessions.c.attempt + 1,
                "lease_owner": outcome.worker,
                "lease_expires_at": database_time(outcome.lease_seconds),
            }
        case Complete():
            return {"stored_bytes": tables.sessions.c.stored_bytes + sum(file.bytes for file in outcome.outputs)}
        case Fail():
            columns: dict[str, Any] = {
                "error_code": outcome.code,
                "error_message": outcome.message,
                "error_retryable": outcome.retryable,
            }
            return columns if outcome.burnt is None else columns | {"burnt": outcome.burnt}
        case Requeue():
            moved = {} if outcome.processor is None else {"processor": outcome.processor}
            return {"burnt": outcome.burnt, "enqueues": outcome.enqueues, **moved}
        case Cancel():
            return {}
        case _:
            assert_never(outcome)


def _event_data(outcome: Outcome, session: Session) -> dict[str, Any]:
    """Return the data of this outcome's event; files are named by their keys."""
    match outcome:
        case Begin():
            return {"attempt": session.attempt, "processor": session.processor}
        case Complete():
            return {"output": outcome.outputs[0].key, "outputs": files_data(outcome.outputs)}
        case Fail():
            return {"error": {"code": outcome.code, "message": outcome.message, "retryable": outcome.retryable}}
        case Requeue():
            return {"reason": outcome.reason}
        case Cancel():
            return {}
        case _:
            assert_never(outcome)
