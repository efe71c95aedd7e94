"""The session as every client sees it."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from server.domain.access import Access, view
from server.domain.queue_place import Waiting, expected_seconds, worth_telling
from server.domain.session import Progress, Session, new_session_id, timestamp, valid_session_id
from server.domain.tokens import Signer
from tryon.protocol.frames import encode
from tryon.protocol.states import Status

AT = datetime(2026, 11, 22, 9, 0, 0, 0, UTC)
ID = new_session_id()
NOW = 1_000_000.5
SIGNER = Signer(["tests-" * 8])


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
        "params": {"secret": "of the person"},
        "input_key": f"inputs/{ID}-image.jpg",
        "garment_key": None,
        "output_key": None,
        "error_code": None,
        "error_message": None,
        "error_retryable": False,
        "retry_of": None,
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


PROGRESS = Progress(seq=2, attempt=1, at="t", progress=0.4, stage="rendering", eta_seconds=1.8)


def test_the_view_has_exactly_the_fields_of_the_contract() -> None:
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
    }
    assert set(links) == {"self", "ws", "events", "input", "garment", "output"}
    assert (links["self"], links["garment"], links["output"]) == (f"/api/tryon/sessions/{ID}", None, None)


@pytest.mark.parametrize(("seq", "attempt"), [(3, 1), (1, 1), (2, 2), (2, 0)])
def test_progress_of_another_transition_or_attempt_is_not_shown(seq: int, attempt: int) -> None:
    other = Progress(seq=seq, attempt=attempt, at="t", progress=0.9, stage="old")
    shown = view(session(), access(), progress=other)
    assert (shown.progress, shown.stage) == (None, None)


def test_a_place_in_the_queue_is_shown_only_before_the_work() -> None:
    waiting = view(session(status=Status.CREATED, seq=1, attempt=0), access(), waiting=Waiting(3, 12.0))
    assert (waiting.queue_position, waiting.eta_seconds) == (3, 12.0)
    running = view(session(), access(), waiting=Waiting(3, 12.0))
    assert (running.queue_position, running.eta_seconds) == (None, None)


@pytest.mark.parametrize(
    ("position", "run_seconds", "slots", "expected"),
    [
        (1, 3.0, 10, 3.0),
        (10, 3.0, 10, 3.0),
        (11, 3.0, 10, 6.0),
        (5, 2.0, 1, 10.0),
        (1, None, 10, None),
        (1, 3.0, 0, None),
    ],
)
def test_the_time_to_the_end_counts_the_rounds_ahead(
    position: int, run_seconds: float | None, slots: int, expected: float | None
) -> None:
    assert expected_seconds(position, run_seconds=run_seconds, slots=slots) == expected


def test_a_failure_has_words_even_if_its_code_is_unknown() -> None:
    known = view(session(status=Status.FAILED, error_code="timeout", error_retryable=True), access())
    assert known.error is not None and known.error.message and known.error.retryable
    unknown = view(session(status=Status.FAILED, error_code="of_a_plugin"), access())
    assert unknown.error is not None and unknown.error.message
    assert unknown.error.code == "of_a_plugin"


def test_neither_owner_nor_worker_nor_params_are_told() -> None:
    shown = encode(view(session(), access(), progress=PROGRESS))
    for secret in (b"ffff", b"worker-1", b"of the person", b"request"):
        assert secret not in shown


def test_a_token_holder_gets_tickets_and_links_of_full_life() -> None:
    links = view(session(output_key=f"outputs/{ID}-1.jpg"), access()).links
    for stream in (links.ws, links.events):
        ticket = parse_qs(urlsplit(stream).query)["ticket"][0]
        assert SIGNER.check_ticket(ID, ticket, now=NOW) == int(NOW) + 900
    assert links.output is not None
    assert parse_qs(urlsplit(links.output).query)["expires"] == [str(int(NOW) + 300)]


@pytest.mark.parametrize(("until", "expires"), [(60, 60), (9999, 300)])
def test_a_ticket_holder_gets_no_ticket_and_no_link_that_outlives_theirs(until: int, expires: int) -> None:
    links = view(session(), access(until=int(NOW) + until)).links
    assert "?" not in links.ws + links.events
    assert parse_qs(urlsplit(links.input).query)["expires"] == [str(int(NOW) + expires)]


def test_ids_sort_by_creation_and_are_never_the_same() -> None:
    ids = [new_session_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    first = new_session_id()
    time.sleep(0.002)  # its clock ticks in milliseconds
    assert first < new_session_id()
    parsed = uuid.UUID(first)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert abs((parsed.int >> 80) / 1000 - time.time()) < 5


def test_only_the_canonical_form_names_a_session() -> None:
    assert valid_session_id(ID)
    for other in (ID.upper(), ID.replace("-", ""), f"{{{ID}}}", f"urn:uuid:{ID}", "", "x" * 36, ID[:-1], ID + " "):
        assert not valid_session_id(other), other


def test_timestamps_are_in_utc_with_milliseconds() -> None:
    assert timestamp(datetime(2026, 1, 2, 3, 4, 5, 6789, UTC)) == "2026-01-02T03:04:05.006Z"
    there = timezone(timedelta(hours=2))
    assert timestamp(datetime(2026, 1, 2, 3, 4, 5, 0, there)) == "2026-01-02T01:04:05.000Z"


@pytest.mark.parametrize(
    ("told", "now", "worth"),
    [
        (None, (3, None), True),
        ((3, 6.0), (3, 6.0), False),
        ((4, 6.0), (3, 6.0), True),
        ((99, 60.0), (98, 60.0), True),
        ((509, 60.0), (500, 60.0), False),
        ((510, 60.0), (500, 60.0), True),
        ((3, 60.0), (3, 55.0), False),
        ((3, 60.0), (3, 54.0), True),
        ((3, 6.0), (3, 5.2), False),
        ((3, 6.0), (3, 5.0), True),
        ((3, None), (3, 6.0), True),
        ((3, 6.0), (3, None), True),
    ],
)
def test_a_place_is_told_when_it_matters(
    told: tuple[int, float] | None, now: tuple[int, float | None], worth: bool
) -> None:
    assert worth_telling(None if told is None else Waiting(*told), Waiting(*now)) is worth
