"""Webhooks are signed as Standard Webhooks says, and repeated ever more seldom."""

from __future__ import annotations

import base64

from server.domain.webhooks import LONGEST_PAUSE_SECONDS, headers_of, message_id, pause_seconds


def test_signature_is_the_one_of_the_standard() -> None:
    """The example of its documentation."""
    body = b'{"event_type":"ping","data":{"success":true}}'
    secret = base64.b64decode("plJ3nmyCDGBKInavdOK15jsl")
    headers = headers_of("msg_loFOjxBNrRLzqYUf", body, at=1731705121.9, secrets=[secret])
    assert headers == {
        "webhook-id": "msg_loFOjxBNrRLzqYUf",
        "webhook-timestamp": "1731705121",
        "webhook-signature": "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    }


def test_every_secret_signs() -> None:
    """A receiver verifies with either one while they are exchanged."""
    one, other, both = (
        headers_of("id", b"{}", at=0, secrets=secrets)["webhook-signature"]
        for secrets in ([b"a"], [b"b"], [b"a", b"b"])
    )
    assert both == f"{one} {other}"


def test_id_has_no_full_stop() -> None:
    """It would end the id in the signed text."""
    assert message_id("0199f6b2-7c1e", 3) == "0199f6b2-7c1e-3"


def test_pauses_double_up_to_an_hour() -> None:
    """From seconds to an hour, and not beyond."""
    pauses = [pause_seconds(attempts) for attempts in range(1, 13)]
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == pause_seconds(10_000) == LONGEST_PAUSE_SECONDS
