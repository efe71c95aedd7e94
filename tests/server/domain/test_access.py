"""The session as one caller may see it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from server.domain.access import SHARED_SECONDS, Access, share, view
from server.domain.queue_place import Waiting
from server.domain.session import Progress, Session
from server.domain.stored_files import Direction
from server.domain.tokens import Signer
from testkit.running import result, stored
from tryon.protocol.errors import Conflict
from tryon.protocol.frames import encode
from tryon.protocol.states import Status

AT = datetime(2026, 11, 22, 9, 0, 0, 0, UTC)
ID = "019ab9d4-7c1e-7d52-9c6e-0f3a6d1b2c4e"
NOW = 1_000_000.5
SIGNER = Signer(["tests-" * 8])


PERSON = stored(f"inputs/{ID}-person-0.jpg", bytes=196_000, width=1200, height=1600)


def session(**changed: Any) -> Session:
    settings: dict[str, Any] = {
        "id": ID,
        "owner": "f" * 64,
        "status": Status.PROCESSING,
        "seq": 2,
        "attempt": 1,
        "burnt": 0,
        "enqueues": 1,
        "cancel_requested": False,
        "processor": "mock",
        "params": {"size": "M"},
        "seed": 7,
        "files": (PERSON,),
        "error_code": None,
        "error_message": None,
        "error_retryable": False,
        "retry_of": None,
        "copy_of": None,
        "request_id": "request",
        "lease_owner": "worker-1",
        "lease_expires_at": AT,
        "created_at": AT,
        "updated_at": AT,
        "finished_at": None,
        "deadline_at": AT + timedelta(seconds=600),
        "expires_at": AT + timedelta(days=1),
    }
    return Session(**settings | changed)


def access(until: int | None = None) -> Access:
    return Access(SIGNER, NOW, link_seconds=300, ticket_seconds=900, until=until)


PROGRESS = Progress(seq=2, attempt=1, at="t", progress=0.4, stage="rendering", eta_seconds=1.8, step=12, steps=30)


def test_view_has_exactly_the_contract_fields() -> None:
    """The JSON of a session is the documented one, field by field."""
    shown = json.loads(encode(view(session(), access(), progress=PROGRESS)))
    links = shown.pop("links")
    assert shown == {
        "session_id": ID,
        "status": "processing",
        "seq": 2,
        "terminal": False,
        "attempt": 1,
        "stage": "rendering",
        "progress": 0.4,
        "queue_position": None,
        "eta_seconds": 1.8,
        "error": None,
        "created_at": "2026-11-22T09:00:00.000Z",
        "updated_at": "2026-11-22T09:00:00.000Z",
        "deadline": "2026-11-22T09:10:00.000Z",
        "expires_at": "2026-11-23T09:00:00.000Z",
        "processor": "mock",
        "retry_of": None,
        "copy_of": None,
        "params": {"size": "M"},
        "seed": 7,
        "step": 12,
        "steps": 30,
        "upstream_position": None,
        "inputs": [
            {
                "role": "person",
                "index": 0,
                "type": "image/jpeg",
                "width": 1200,
                "height": 1600,
                "bytes": 196_000,
                "link": links["input"],
            }
        ],
        "outputs": [],
        "preview": None,
    }
    assert set(links) == {"self", "ws", "events", "input", "garment", "output"}
    assert (links["self"], links["garment"], links["output"]) == (f"/api/tryon/sessions/{ID}", None, None)


@pytest.mark.parametrize(("seq", "attempt"), [(3, 1), (1, 1), (2, 2), (2, 0)])
def test_view_hides_progress_of_other_transitions(seq: int, attempt: int) -> None:
    """Progress is shown only with its own seq and attempt."""
    other = Progress(seq=seq, attempt=attempt, at="t", progress=0.9, stage="old")
    shown = view(session(), access(), progress=other)
    assert (shown.progress, shown.stage) == (None, None)


def test_view_shows_queue_place_only_while_waiting() -> None:
    """A session that runs has no place in the queue."""
    waiting = view(session(status=Status.CREATED, seq=1, attempt=0), access(), waiting=Waiting(3, 12.0))
    assert (waiting.queue_position, waiting.eta_seconds) == (3, 12.0)
    running = view(session(), access(), waiting=Waiting(3, 12.0))
    assert (running.queue_position, running.eta_seconds) == (None, None)


def test_view_of_failure_always_has_message() -> None:
    """A processor's own code gets a message that is safe to show, too."""
    known = view(session(status=Status.FAILED, error_code="timeout", error_retryable=True), access())
    assert known.error is not None and known.error.message and known.error.retryable
    unknown = view(session(status=Status.FAILED, error_code="of_a_plugin"), access())
    assert unknown.error is not None and unknown.error.message
    assert unknown.error.code == "of_a_plugin"


def test_view_hides_owner_and_worker() -> None:
    """Nothing of the row leaks that is not part of the contract."""
    shown = encode(view(session(), access(), progress=PROGRESS))
    for secret in (b"ffff", b"worker-1", b"request"):
        assert secret not in shown


def test_token_holder_gets_tickets_and_full_links() -> None:
    """Tickets and links live as long as configured."""
    links = view(session(files=(PERSON, result(f"outputs/{ID}-1.jpg"))), access()).links
    for stream in (links.ws, links.events):
        ticket = parse_qs(urlsplit(stream).query)["ticket"][0]
        assert SIGNER.check_ticket(ID, ticket, now=NOW) == int(NOW) + 900
    assert links.output is not None
    assert parse_qs(urlsplit(links.output).query)["expires"] == [str(int(NOW) + 300)]


def test_view_lists_files_by_role_and_links_the_first() -> None:
    """Photos and results have their order; the preview stands alone."""
    files = (
        PERSON,
        stored("inputs/g0.jpg", position=1, role="garment"),
        stored("inputs/g1.jpg", position=2, role="garment"),
        result("outputs/a.jpg"),
        result("outputs/b.jpg", position=1),
        stored("previews/p.jpg", direction=Direction.PREVIEW, role="preview", width=8, height=9),
    )
    shown = view(session(files=files), access())
    assert [file.role for file in shown.inputs] == ["person", "garment", "garment"]
    assert [file.link for file in shown.inputs[:2]] == [shown.links.input, shown.links.garment]
    assert (shown.outputs[0].link, len(shown.outputs)) == (shown.links.output, 2)
    assert (shown.outputs[0].width, shown.outputs[0].height) == (None, None)
    assert shown.preview is not None and "/previews/p.jpg?" in shown.preview.link
    assert (shown.preview.type, shown.preview.width, shown.preview.height) == ("image/jpeg", 8, 9)


@pytest.mark.parametrize(("until", "expires"), [(60, 60), (9999, 300)])
def test_ticket_holder_gets_no_longer_access(until: int, expires: int) -> None:
    """A ticket holder gets no ticket, and no link that outlives the ticket."""
    links = view(session(), access(until=int(NOW) + until)).links
    assert "?" not in links.ws + links.events
    assert parse_qs(urlsplit(links.input).query)["expires"] == [str(int(NOW) + expires)]


def completed(**changed: Any) -> Session:
    video = result(f"outputs/{ID}-1-result-0.mp4")
    still = result(f"outputs/{ID}-1-result-1.jpg", position=1)
    return session(status=Status.COMPLETED, files=(PERSON, video, still), **changed)


@pytest.mark.parametrize(("left", "lasts"), [(600, 600), (48 * 3600, SHARED_SECONDS)])
def test_share_ends_with_session_or_after_a_day(left: float, lasts: int) -> None:
    """Whichever comes first; the link opens the first output."""
    at = AT.timestamp()
    shared = share(completed(expires_at=AT + timedelta(seconds=left)), signer=SIGNER, now=at + 0.5)
    path, query = shared.link.split("?")
    assert path.endswith(f"outputs/{ID}-1-result-0.mp4")
    assert int(parse_qs(query)["expires"][0]) == at + lasts
    assert datetime.fromisoformat(shared.expires_at) == AT + timedelta(seconds=lasts)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.COMPLETED])
def test_share_is_refused_before_completion(status: Status) -> None:
    """There is no result to show."""
    with pytest.raises(Conflict) as refused:
        share(session(status=status), signer=SIGNER, now=NOW)
    assert refused.value.code == "not_completed"
