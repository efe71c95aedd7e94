"""A client's nonsense is refused in words and never writes a stack trace."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from server.domain.tokens import new_token
from server.telemetry.logs import TextFormatter
from server.web.serving.handshake import Handshake
from testkit.running import Web
from tests.server.web.api.forms import BOUNDARY, JPEG, form, part

DEEP = "[" * 1200 + "]" * 1200
NUMBERS = (
    "00000005099999999999999999999", "9" * 400, "-1", "+1", "1_0", "9" * 20, "1e999", "nan", "inf", "\u0669", "\x00", "",
)  # fmt: skip
MESSAGES = (
    DEEP, '{"type":"ping","x":' + DEEP + "}", '{"a":' * 600, '{"type":"sync","since":' + "9" * 4000 + "}",
    '{"type":"sync","since":-' + "9" * 400 + "}", '{"type":"sync","since":1e400}', '"\\ud800"', "\x00", "nul", "[" * 4000,
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_trace(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail if any logger wrote a stack trace, or an error, during the test."""
    yield
    lines = [TextFormatter().format(record) for record in caplog.records]
    assert not [line for line in lines if "Traceback" in line or " ERROR " in line]


def cursor(text: str) -> str:
    """Return the text in the form of a cursor."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


async def test_number_of_a_query_is_judged_by_its_value(web: Web) -> None:
    """A number that cannot be used is 400, or stands for the nearest one that can."""
    session, token = await web.submit()
    headers = {"Authorization": f"Bearer {token}"}
    path = f"/api/tryon/sessions/{session.id}"
    for number in NUMBERS:
        for params in ({"limit": number}, {"cursor": cursor(f"{number}.{session.id}")}):
            answer = await web.client.get("/api/tryon/sessions", params=params, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), params
        assert (await web.client.get(path, params={"since": number}, headers=headers)).status_code == 200, number
        assert (await web.client.get(path, params={"wait": number}, headers=headers)).status_code in (200, 400), number
        link = {"expires": number, "key": number, "signature": number}
        assert (await web.client.get(f"/api/tryon/files/{session.inputs[0].key}", params=link)).status_code == 404, (
            number
        )
        ticket = {"ticket": f"{number}.{number}.{number}"}
        assert (await web.client.get(path, params=ticket)).status_code == 401, number


async def test_number_of_a_header_is_judged_by_its_value(web: Web) -> None:
    """Last-Event-ID that can be no seq stands for 0."""
    session, token = await web.submit()
    path = f"/api/tryon/sessions/{session.id}/events"
    for number in NUMBERS:
        if "\x00" in number:
            continue  # the parser of HTTP refuses it
        headers = [(b"Authorization", f"Bearer {token}".encode()), (b"Last-Event-ID", number.encode())]
        async with web.client.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == 200, number
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    assert json.loads(line[6:])["type"] == "snapshot"
                    break


async def test_nonsense_in_params_is_refused(web: Web) -> None:
    """422, as for any params that cannot be used."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "X-Client-Token": new_token()}
    for params in (DEEP, '{"a":' + DEEP + "}", '{"a":' * 600, '{"a": ' + "9" * 4000 + "}", "[" * 4000):
        body = form(part("image", JPEG), part("params", params.encode()))
        answer = await web.client.post("/api/tryon/sessions", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_params"), params[:20]


@pytest.mark.parametrize("ws", [Handshake, WebSocketsSansIOProtocol], ids=["detached", "asgi"])
async def test_nonsense_on_a_socket_is_ignored(web: Web) -> None:
    """The socket goes on: the next ping is answered."""
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        for message in MESSAGES:
            await client.send(message)
        await client.send({"type": "ping"})
        await client.next("pong")
