"""Webhooks: the message about a session's end, its signature, and when to try again.

As Standard Webhooks 1.0 has it (https://www.standardwebhooks.com): the headers
``webhook-id``, ``webhook-timestamp`` and ``webhook-signature``. The signed text is id,
timestamp and body with a full stop between; each secret gives one signature, so that a
receiver verifies while a secret is exchanged.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from tryon.protocol.views import SessionView

FIRST_PAUSE_SECONDS: Final = 5.0
LONGEST_PAUSE_SECONDS: Final = 3600.0


class WebhookMessage(msgspec.Struct, frozen=True):
    """The body of a webhook.

    ``type``: ``session.`` and the terminal event; ``timestamp``: the time of the event;
    ``data``: the session, as a GET shows it without tickets.
    """

    type: str
    timestamp: str
    data: SessionView


def message_id(session_id: str, seq: int) -> str:
    """Return the ``webhook-id``: the same in every attempt to deliver an event."""
    return f"{session_id}-{seq}"


def body_of(view: SessionView) -> bytes:
    """Return the body about a session that has ended."""
    return msgspec.json.encode(WebhookMessage(f"session.{view.status.value}", view.updated_at, view))


def headers_of(id: str, body: bytes, *, at: float, secrets: Sequence[bytes]) -> Mapping[str, str]:
    """Return the headers that sign a body; ``at``: Unix seconds of the attempt."""
    signed = f"{id}.{int(at)}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode() for secret in secrets)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(int(at)),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def pause_seconds(attempts: int) -> float:
    """Return the pause behind this many failed attempts: 5 s, doubled up to an hour."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempts - 1, 20))
