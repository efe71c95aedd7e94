"""Answers in JSON."""

from __future__ import annotations

import json

from server.web.common.answers import json_response, session_answer
from testkit.running import Web


async def test_session_answer_omits_absent_fields(web: Web) -> None:
    """`missed` and `client_token` stand in it only if they were given."""
    session, _ = await web.submit()
    view = await web.services.sessions.reads.view_of(session)
    plain = json.loads(session_answer(view))
    assert plain["session_id"] == session.id
    assert not {"missed", "client_token"} & set(plain)
    assert json.loads(session_answer(view, missed=[], client_token="t")) == plain | {
        "missed": [],
        "client_token": "t",
    }


def test_json_response_is_not_cached() -> None:
    """No cache keeps an answer; further header fields are added."""
    response = json_response(b"{}", 202, {"Location": "/x"})
    assert (response.status_code, response.body) == (202, b"{}")
    assert response.headers["Content-Type"] == "application/json"
    assert (response.headers["Cache-Control"], response.headers["Location"]) == ("no-store", "/x")
