"""The rule of following on the client's side, without I/O.

There is one cursor, the last ``seq``. Every transition is taken once and in order,
whichever connection brings it: one that was seen is dropped, a hole is noted and fills
itself with the next snapshot. The session never steps back to an older state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from tryon.protocol.frames import EventFrame, ProgressFrame
from tryon.protocol.states import Status
from tryon.protocol.views import FileView, PreviewView, SessionError, SessionView

IMAGE_TYPES: Final = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
"""Types of previews, by the extension of their link."""


@dataclass(frozen=True, slots=True)
class Update:
    """One change of a session.

    ``session``: the whole session after it. ``event``: the transition; None for
    progress and for changes that only a snapshot shows. ``transport``: that of the
    connection.
    """

    session: SessionView
    event: EventFrame | None = None
    transport: str = ""

    @property
    def status(self) -> Status:
        """Return the session's status."""
        return self.session.status

    @property
    def seq(self) -> int:
        """Return the number of the session's last transition, from 1."""
        return self.session.seq

    @property
    def terminal(self) -> bool:
        """Return whether the session has ended: nothing follows."""
        return self.session.terminal

    @property
    def progress(self) -> float | None:
        """Return the share that is done, from 0 to 1; None if it is unknown."""
        return self.session.progress

    @property
    def stage(self) -> str | None:
        """Return the processor's present stage, in a word."""
        return self.session.stage

    @property
    def step(self) -> int | None:
        """Return the model's own count, out of ``session.steps``; None without one."""
        return self.session.step

    @property
    def preview(self) -> str | None:
        """Return the link to the last intermediate picture, None without one."""
        return None if self.session.preview is None else self.session.preview.link

    @property
    def queue_position(self) -> int | None:
        """Return the place in the queue, from 1; None once the session runs."""
        return self.session.queue_position


class FollowedSession:
    """A session as far as it was shown.

    ``cursor``: seq of the last transition that was taken. ``session``: the last known
    state, None before the first snapshot. ``behind``: a transition is missing, so the
    connection must be opened again.
    """

    __slots__ = ("behind", "cursor", "session")

    def __init__(self, cursor: int = 0, session: SessionView | None = None) -> None:
        self.cursor = cursor
        self.session = session
        self.behind = False

    def __repr__(self) -> str:
        status = self.session.status.value if self.session else "unknown"
        return f"<FollowedSession {status} cursor={self.cursor}{' behind' if self.behind else ''}>"

    @property
    def ended(self) -> bool:
        """Return whether the terminal transition was taken."""
        return self.session is not None and self.session.terminal and self.session.seq <= self.cursor

    def snapshot(self, session: SessionView, missed: Sequence[EventFrame]) -> list[Update]:
        """Return an update for each new transition, or one for any other change.

        Like :meth:`event` it takes all or nothing: a frame that cannot be read raises
        MsgspecError and moves nothing.
        """
        cursor, known, updates = self.cursor, self.session, list[Update]()
        before = _before(session, missed)
        for event in missed:
            if event.seq == cursor + 1:
                if known is None or event.seq > known.seq:
                    known = session if event.seq >= session.seq else _after(known or before, event)
                cursor = event.seq
                updates.append(Update(known, event))
        if known is None or (session.seq >= known.seq and session != known):
            known = session
            last = updates.pop() if updates and updates[-1].seq == session.seq else Update(session)
            updates.append(Update(session, last.event))
        self.cursor, self.session, self.behind = cursor, known, session.seq > cursor
        return updates

    def event(self, event: EventFrame) -> list[Update]:
        """Return the update of a transition, none if it was seen or leaves a hole."""
        known = self.session
        self.behind |= known is None or event.seq > self.cursor + 1
        if known is None or event.seq != self.cursor + 1:
            return []
        if event.seq > known.seq:
            known = _after(known, event)
        self.cursor, self.session = event.seq, known
        return [Update(known, event)]

    def progress(self, frame: ProgressFrame) -> list[Update]:
        """Return the update of progress, none if it is of an older transition."""
        known = self.session
        self.behind |= frame.seq > self.cursor
        if known is None or known.terminal or frame.seq != known.seq:
            return []
        self.session = msgspec.structs.replace(
            known,
            progress=frame.progress,
            stage=frame.stage,
            eta_seconds=frame.eta_seconds,
            queue_position=frame.queue_position,
            step=frame.step,
            steps=frame.steps,
            upstream_position=frame.upstream_position,
            preview=_preview(frame.preview, known.preview),
        )
        return [Update(self.session)]


def _preview(link: str | None, known: PreviewView | None) -> PreviewView | None:
    """Return the picture that a progress frame links to, as a session has it."""
    if link is None:
        return known
    path = link.partition("?")[0]
    if known is not None and known.link.partition("?")[0] == path:
        return msgspec.structs.replace(known, link=link)
    return PreviewView(IMAGE_TYPES.get(path.rpartition(".")[2], "image/jpeg"), None, None, link)


def _before(session: SessionView, missed: Sequence[EventFrame]) -> SessionView:
    """Return the session as it was before ``missed``, as far as the frames say."""
    attempts = [event.data["attempt"] for event in missed if "attempt" in event.data]
    return msgspec.structs.replace(
        session,
        attempt=attempts[0] - 1 if attempts else session.attempt,
        outputs=[],
        links=msgspec.structs.replace(session.links, output=None),
    )


def _after(session: SessionView, event: EventFrame) -> SessionView:
    """Return the session as a transition leaves it, as far as the frame says."""
    error = event.data.get("error")
    links = msgspec.structs.replace(session.links, output=event.data.get("output", session.links.output))
    outputs = event.data.get("outputs")
    return msgspec.structs.replace(
        session,
        status=event.status,
        seq=event.seq,
        terminal=event.terminal,
        attempt=event.data.get("attempt", session.attempt),
        stage=None,
        progress=1.0 if event.status is Status.COMPLETED else None,
        queue_position=None,
        eta_seconds=None,
        step=None,
        steps=None,
        upstream_position=None,
        outputs=session.outputs if outputs is None else msgspec.convert(outputs, list[FileView]),
        error=None if error is None else msgspec.convert(error, SessionError),
        updated_at=event.at,
        links=links,
    )
