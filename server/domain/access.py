"""The session as one caller may see it, with the links and tickets that caller gets.

:func:`view` makes the JSON that the POST, the GET and every snapshot carry, so a
session looks the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from server.domain.queue_place import Waiting
from server.domain.session import Progress, Session, timestamp
from server.domain.stored_files import StoredFile
from server.domain.tokens import Signer
from tryon.protocol.errors import FAILURES, Conflict
from tryon.protocol.paths import SESSIONS, SSE, WS
from tryon.protocol.states import Status
from tryon.protocol.views import FileView, Links, PreviewView, Receipt, ReceiptBody, SessionError, SessionView, Share

SHARED_SECONDS: Final = 24 * 3600
"""Longest life of a link that an owner shares."""


@dataclass(frozen=True, slots=True)
class Access:
    """One caller's rights: which links and tickets an answer to that caller holds.

    The holder of a token gets tickets, and links of full life. The holder of a ticket
    gets no ticket, and no link that outlives the ticket (``until``). ``now`` and
    ``until`` are Unix seconds of the database's clock.
    """

    signer: Signer
    now: float
    link_seconds: int
    ticket_seconds: int
    until: int | None = None
    """End of the ticket that was shown; None if the token itself was shown."""

    def file(self, key: str) -> str:
        """Return a signed link to the file."""
        expires = int(self.now) + self.link_seconds
        return self.signer.link(key, expires=expires if self.until is None else min(expires, self.until))

    def ticket(self, session_id: str) -> str:
        """Return the query for the session's streams; empty for a ticket holder."""
        if self.until is not None:
            return ""
        return f"?ticket={self.signer.ticket(session_id, expires=int(self.now) + self.ticket_seconds)}"


def error_of(session: Session) -> SessionError | None:
    """Return why the session failed; None if it did not."""
    if session.error_code is None:
        return None
    known = FAILURES.get(session.error_code, FAILURES["processor_error"])
    return SessionError(session.error_code, session.error_message or known.detail, session.error_retryable)


def _shown(file: StoredFile, access: Access) -> FileView:
    return FileView(
        role=file.role,
        index=file.index,
        type=file.type,
        width=file.width or None,
        height=file.height or None,
        bytes=file.bytes,
        link=access.file(file.key),
    )


def _preview(session: Session, access: Access) -> PreviewView | None:
    if (file := session.preview) is None:
        return None
    return PreviewView(file.type, file.width or None, file.height or None, access.file(file.key))


def _first(files: list[FileView]) -> str | None:
    return files[0].link if files else None


def view(
    session: Session, access: Access, *, progress: Progress | None = None, waiting: Waiting | None = None
) -> SessionView:
    """Return the session as a client may see it.

    ``progress`` is shown only if it belongs to the current transition and attempt,
    ``waiting`` only while the session waits for a worker.
    """
    if progress is not None and (progress.seq, progress.attempt) != (session.seq, session.attempt):
        progress = None
    if session.status is not Status.CREATED:
        waiting = None
    path, query = f"{SESSIONS}/{session.id}", access.ticket(session.id)
    inputs = [_shown(file, access) for file in session.inputs]
    outputs = [_shown(file, access) for file in session.outputs]
    return SessionView(
        session_id=session.id,
        status=session.status,
        seq=session.seq,
        terminal=session.status.terminal,
        attempt=session.attempt,
        stage=progress.stage if progress else None,
        progress=progress.progress if progress else (1.0 if session.status is Status.COMPLETED else None),
        queue_position=waiting.queue_position if waiting else None,
        eta_seconds=progress.eta_seconds if progress else waiting.eta_seconds if waiting else None,
        error=error_of(session),
        created_at=timestamp(session.created_at),
        updated_at=timestamp(session.updated_at),
        deadline=timestamp(session.deadline_at),
        expires_at=timestamp(session.expires_at),
        processor=session.processor,
        retry_of=session.retry_of,
        copy_of=session.copy_of,
        params=dict(session.params),
        seed=session.seed,
        step=progress.step if progress else None,
        steps=progress.steps if progress else None,
        upstream_position=progress.upstream_position if progress else None,
        inputs=inputs,
        outputs=outputs,
        preview=_preview(session, access),
        links=Links(
            self=path,
            ws=f"{path}{WS}{query}",
            events=f"{path}{SSE}{query}",
            input=_first(inputs) or "",
            garment=_first([file for file in inputs if file.role == "garment"]),
            output=_first(outputs),
        ),
    )


def share(session: Session, *, signer: Signer, now: float) -> Share:
    """Return a link to the session's first result that its owner may give to others.

    It ends with the session, and after a day at the latest. Raises Conflict:
    ``not_completed``.
    """
    if session.status is not Status.COMPLETED or not session.outputs:
        raise Conflict("not_completed")
    expires = min(int(now) + SHARED_SECONDS, int(session.expires_at.timestamp()))
    link = signer.link(session.outputs[0].key, expires=expires)
    return Share(link, timestamp(datetime.fromtimestamp(expires, UTC)))


def signed_receipt(body: ReceiptBody, signer: Signer) -> Receipt:
    """Return the receipt with its signature over the body's canonical JSON."""
    key_id, signature = signer.sign_receipt(msgspec.json.encode(body, order="sorted"))
    return Receipt(body.session_id, body.reason, body.deleted_at, body.files, body.upstream, key_id, signature)
