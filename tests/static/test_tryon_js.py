"""The browser client's constants are those of `tryon.protocol`."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest

from server.domain.images import MEDIA_TYPES
from testkit.declarations import written
from testkit.processes import ROOT
from tryon.client.watching import PAGE, WATCH_TRANSPORTS
from tryon.protocol import backoff, errors
from tryon.protocol.close_codes import AT_ONCE, BROKEN, CloseCode, may_reconnect
from tryon.protocol.credentials import TOKEN_PATTERN
from tryon.protocol.frames import BEARER_SUBPROTOCOL, SUBPROTOCOL, ProgressFrame
from tryon.protocol.limits import LimitsView, UploadsView
from tryon.protocol.paths import API, LIMITS, PROCESSOR, RECEIPT_KEY, SESSIONS, SSE, WS
from tryon.protocol.processors import ProcessorView, RoleView
from tryon.protocol.states import Event, GoneReason, Status
from tryon.protocol.views import (
    ErasedFile,
    History,
    HistoryEvent,
    Links,
    Receipt,
    SessionError,
    SessionView,
    Share,
)

SCRIPTS: Final = ("tryon.js", "tryon-lower.js", "tryon-watch.js")
CLIENT: Final = "".join((ROOT / "static" / name).read_text() for name in SCRIPTS)
TYPES: Final = (ROOT / "static" / "tryon.d.ts").read_text()

QUIET_FIELDS: Final = set(ProgressFrame.__struct_fields__) - {"session_id", "seq", "at", "preview"}
"""Fields that only progress has, and that the next transition ends."""


def constants() -> dict[str, Any]:
    """Return the client's one-line constants as JSON values, a set as a sorted list.

    A constant that two scripts have is the same in both.
    """
    found: dict[str, Any] = {}
    for name, text in re.findall(r"^(?:export )?const ([A-Z_]+) = (.*?);(?: //.*)?$", CLIENT, re.MULTILINE):
        if regular := re.fullmatch(r"/\^(.*)\$/", text):
            found[name] = regular[1]
            continue
        text = re.sub(r"^new Set\((.*)\)$", r"\1", text)
        value = json.loads(re.sub(r"(\w+):", r'"\1":', text))
        assert found.setdefault(name, value) == value, name
    return found


def milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def test_client_constants_are_the_protocol() -> None:
    """Every constant of the client is in the tables, with the same value."""
    assert constants() == {
        "API": f"{API}/",
        "OWNER": API,
        "ERASED": sorted(reason.value for reason in GoneReason),
        "WATCH_RUNGS": list(WATCH_TRANSPORTS),
        "PAGE": PAGE,
        "SESSIONS": SESSIONS,
        "PROCESSOR": PROCESSOR,
        "LIMITS": LIMITS,
        "QUIET": dict.fromkeys(QUIET_FIELDS),
        "WS": WS,
        "SSE": SSE,
        "SUBPROTOCOL": SUBPROTOCOL,
        "BEARER": BEARER_SUBPROTOCOL,
        "TOKEN": TOKEN_PATTERN.pattern,
        "RUNGS": list(backoff.TRANSPORTS),
        "HOLDING": [each for each in backoff.TRANSPORTS if each not in ("ws", "poll")],
        "OPEN_MS": milliseconds(backoff.OPEN_SECONDS),
        "PROBE_MS": milliseconds(backoff.PROBE_SECONDS),
        "STEADY_MS": milliseconds(backoff.STEADY_SECONDS),
        "BACKOFF_MS": {
            "first": milliseconds(backoff.FIRST_SECONDS),
            "most": milliseconds(backoff.MOST_SECONDS),
        },
        "CLIMB_MS": {
            "first": milliseconds(backoff.CLIMB_FIRST_SECONDS),
            "most": milliseconds(backoff.CLIMB_MOST_SECONDS),
        },
        "WAIT_SECONDS": backoff.WAIT_SECONDS,
        "POLL_MS": milliseconds(backoff.POLL_SECONDS),
        "WATCHDOG_PERIODS": backoff.WATCHDOG_PERIODS,
        "TRIES": backoff.TRIES,
        "BROKEN": sorted(BROKEN),
        "AT_ONCE": sorted(AT_ONCE),
        "RESYNC": CloseCode.RESYNC,
        "STOP": {"first": 4500, "last": 4999},
        "CLOSED": {
            str(CloseCode.UNAUTHORIZED.value): "invalid_token",
            str(CloseCode.NOT_FOUND.value): errors.NotFound().code,
            str(CloseCode.GONE.value): "erased",
        },
    }


def test_preview_types_follow_from_extensions() -> None:
    """The client names a preview's type by the end of its link."""
    assert {extension: f"image/{extension.replace('jpg', 'jpeg')}" for extension in MEDIA_TYPES} == MEDIA_TYPES
    assert '`image/${path.split(".").pop().replace("jpg", "jpeg")}`' in CLIENT


def test_client_stops_on_protocol_codes() -> None:
    """The range of codes without a reconnect is that of the protocol."""
    stop = constants()["STOP"]
    assert [may_reconnect(code) for code in (stop["first"] - 1, stop["first"], stop["last"])] == [True, False, False]


def test_client_repeats_no_protocol_literal() -> None:
    """Outside its constants the client names no close code, path or subprotocol."""
    script = CLIENT + (ROOT / "static" / "tryon-shared.js").read_text()
    code = re.sub(r"^(?:export )?const [A-Z_]+ = .*$", "", script, flags=re.MULTILINE)
    code = re.sub(r"(?s:/\*\*.*?\*/)|//.*$", "", code, flags=re.MULTILINE)
    assert "class LowerRungs" in code
    assert re.findall(r"\b4[05]\d\d\b|/api/|tryon\.v1|tryon\.bearer", code) == []


def test_declared_codes_are_the_protocol() -> None:
    """The generated codes are those of the tables (python -m testkit.declarations)."""
    assert written(TYPES) == TYPES, "run python -m testkit.declarations --write"
    assert '| "no_such_code"' not in TYPES
    assert '| "rate_limited"' in TYPES


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Status", [status.value for status in Status]),
        ("Transport", list(backoff.TRANSPORTS)),
    ],
)
def test_declared_unions_are_the_protocol(name: str, values: list[str]) -> None:
    """A union type of the declarations lists the values of the protocol, in order."""
    declared = re.search(rf"^export type {name} = (.*);$", TYPES, re.MULTILINE)
    assert declared is not None
    assert re.findall(r'"([\w-]+)"', declared[1]) == values


INNER: Final = (
    ("error", SessionError),
    ("events", HistoryEvent),
    ("links", Links),
    ("files", ErasedFile),
    ("uploads", UploadsView),
    ("roles", RoleView),
)
"""Fields whose objects the declarations spell out in their place."""


def fields(declaration: str) -> list[str]:
    """Return the fields of an interface, or of an object type, in order."""
    text = re.sub(r"/\*\*.*?\*/", "", declaration, flags=re.DOTALL)
    while re.search(r": \{[^{}]*\}", text):
        text = re.sub(r": \{[^{}]*\}", ": object", text)
    return re.findall(r"(\w+)\??:", text)


@pytest.mark.parametrize(
    ("interface", "struct"),
    [
        ("Session", SessionView),
        ("History", History),
        ("Receipt", Receipt),
        ("Share", Share),
        ("Limits", LimitsView),
        ("Processor", ProcessorView),
    ],
    ids=["session", "history", "receipt", "share", "limits", "processor"],
)
def test_declared_fields_are_the_views(interface: str, struct: Any) -> None:
    """The declared objects have the fields of the views that are sent."""
    body = re.search(rf"^export interface {interface} \{{\n(.*?)^\}}", TYPES, re.MULTILINE | re.DOTALL)
    assert body is not None
    assert fields(body[1]) == list(struct.__struct_encode_fields__)
    for name, inner in INNER:
        if inline := re.search(rf"\b{name}: \{{(.*?)\}}", body[1]):
            assert fields(inline[1]) == list(inner.__struct_encode_fields__)


def test_declared_events_are_the_protocol() -> None:
    """An event of the declarations is a status or the one event of another name."""
    assert 'event: Status | "requeued";' in TYPES
    assert {event.value for event in Event} == {status.value for status in Status} | {"requeued"}
    assert f"public key is at {RECEIPT_KEY}." in TYPES


def test_page_words_name_known_codes() -> None:
    """The demo page has words only for codes that a server or the client gives."""
    words = (ROOT / "static" / "app" / "troubles.js").read_text()
    (problems,) = re.findall(r"^const PROBLEMS = \{\n(.*?)^\};", words, re.MULTILINE | re.DOTALL)
    (gone,) = re.findall(r"^const GONE = \{\n(.*?)^\};", words, re.MULTILINE | re.DOTALL)
    (limits,) = re.findall(r"^const LIMITS = \{\n(.*?)^\};", words, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"^  (\w+):", problems + gone, re.MULTILINE))
    assert named <= set(errors.CODES) | {"network", "erased"}
    named = set(re.findall(r"^  (\w+):", limits, re.MULTILINE))
    assert set(errors.QUOTAS) <= named <= {*errors.LIMITS, *errors.QUOTAS}
    (statuses,) = re.findall(r"^const BY_STATUS = \{(.*)\};$", words, re.MULTILINE)
    for status, code in re.findall(r'(\d+): "(\w+)"', statuses):
        assert errors.CODES[code].status == int(status)
