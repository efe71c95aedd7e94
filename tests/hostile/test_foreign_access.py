"""Every operation with every credential that does not belong to the session.

:data:`EXPECTED` has a row for each operation of the API and a status for each
credential: an operation without a row fails, and so does a row without an operation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urlsplit

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.domain.session import Session
from server.domain.tokens import new_token
from server.web.api.operation import Operation, Socket
from server.web.api.operations import OPERATIONS
from testkit.running import Web


@dataclass
class Victim:
    """A completed session, its owner's token, and what strangers have instead."""

    web: Web
    session: Session
    token: str
    other: Session
    """A session of a stranger."""
    stranger: str
    """That stranger's token."""

    def ticket(self, session: Session, seconds: int = 600) -> str:
        return self.web.services.signer.ticket(session.id, expires=int(self.web.database.clock.now()) + seconds)

    def link(self, session: Session, seconds: int = 600) -> Mapping[str, str]:
        """Return the parts of the query that sign a link to a session's photo."""
        key = session.inputs[0].key
        link = self.web.services.signer.link(key, expires=int(self.web.database.clock.now()) + seconds)
        return {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}


@dataclass(frozen=True)
class Shown:
    """What a request shows: header fields and query."""

    headers: Mapping[str, str]
    query: Mapping[str, str]


def flipped(text: str) -> str:
    """Return a text with another character in its middle."""
    at = len(text) // 2
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


def shown(headers: Mapping[str, str] | None = None, /, **query: str) -> Shown:
    return Shown(headers or {}, query)


CREDENTIALS: Final[Mapping[str, Callable[[Victim], Shown]]] = {
    "none": lambda victim: shown(),
    "a stranger's token": lambda victim: shown({"Authorization": f"Bearer {victim.stranger}"}),
    "a stranger's token as a field": lambda victim: shown({"X-Client-Token": victim.stranger}),
    "a new token": lambda victim: shown({"X-Client-Token": new_token()}),
    "the token, changed": lambda victim: shown({"X-Client-Token": flipped(victim.token)}),
    "no token at all": lambda victim: shown({"Authorization": "Bearer x"}),
    "the session's id as token": lambda victim: shown({"X-Client-Token": victim.session.id}),
    "the token in the query": lambda victim: shown(token=victim.token, client_token=victim.token),
    "another session's ticket": lambda victim: shown(ticket=victim.ticket(victim.other)),
    "an expired ticket": lambda victim: shown(ticket=victim.ticket(victim.session, -1)),
    "the ticket, changed": lambda victim: shown(ticket=flipped(victim.ticket(victim.session))),
    "a ticket beside a stranger's token": lambda victim: shown(
        {"X-Client-Token": victim.stranger}, ticket=victim.ticket(victim.session)
    ),
    "another file's link": lambda victim: shown(**victim.link(victim.other)),
    "an expired link": lambda victim: shown(**victim.link(victim.session, -1)),
    "a link, changed": lambda victim: shown(
        **{name: flipped(text) if name == "signature" else text for name, text in victim.link(victim.session).items()}
    ),
    "a link that lives longer": lambda victim: shown(
        **{
            name: str(int(text) + 1) if name == "expires" else text
            for name, text in victim.link(victim.session).items()
        }
    ),
    "a link as ticket": lambda victim: shown(ticket=victim.link(victim.session)["signature"]),
    "a ticket as link": lambda victim: shown(
        **{**victim.link(victim.session), "signature": victim.ticket(victim.session).rpartition(".")[2]}
    ),
    "the ticket, to write": lambda victim: shown(ticket=victim.ticket(victim.session)),
    "the link, to write": lambda victim: shown(**victim.link(victim.session)),
}
"""What a stranger may show; the last two are real, but grant only reading."""

TICKETS: Final = {name for name in CREDENTIALS if "ticket" in name and "beside" not in name and "as link" not in name}
BROKEN: Final = {"no token at all"}
READING: Final = {"the ticket, to write": 200}
GRANTED: Final = {"the link, to write": 200}


def statuses(usual: int, broken: int = 401, **tickets: int) -> dict[str, int]:
    """Return a status for each credential; a malformed token is told as that."""
    row = dict.fromkeys(CREDENTIALS, usual) | dict.fromkeys(BROKEN, broken)
    return row | dict.fromkeys(TICKETS, tickets.get("ticket", usual))


OPEN: Final = dict.fromkeys(CREDENTIALS, 200)
"""Of an operation that shows nothing of any session."""
STRANGERS: Final = (
    "a stranger's token",
    "a stranger's token as a field",
    "a new token",
    "the token, changed",
    "the session's id as token",
)

EXPECTED: Final[Mapping[str, Mapping[str, int]]] = {
    "submit": statuses(415),  # there is no photo in it
    "list": statuses(401) | dict.fromkeys((*STRANGERS, "a ticket beside a stranger's token"), 200),
    "session": statuses(404, ticket=401) | READING,
    "erase": statuses(404),
    "cancel": statuses(404),
    "retry": statuses(404),
    "share": statuses(404),
    "crash": statuses(404),
    "history": statuses(404, ticket=401) | READING,
    "socket": statuses(4504, broken=4501, ticket=4501) | {"the ticket, to write": 101},
    "events": statuses(404, ticket=401) | READING,
    "owner_socket": statuses(4501, broken=4501)
    | dict.fromkeys((*STRANGERS, "a ticket beside a stranger's token"), 101),
    "owner_events": statuses(401) | dict.fromkeys((*STRANGERS, "a ticket beside a stranger's token"), 200),
    "receipt_key": OPEN,
    "processor": OPEN,
    "limits": OPEN,
    "quota": statuses(200),
    "file": dict.fromkeys(CREDENTIALS, 404) | GRANTED,
    "health": OPEN,
    "live": OPEN,
    "ready": OPEN,
    "metrics": OPEN,
    "page": OPEN,
    "docs": OPEN,
    "openapi": OPEN,
    "asyncapi": OPEN,
    "static": OPEN,
}


async def make_victim(web: Web) -> Victim:
    """Make a completed session, and one of a stranger."""
    session, token = await web.submit()
    await web.complete(await web.begin(session))
    other, stranger = await web.submit()
    return Victim(web, session, token, other, stranger)


def path_of(operation: Operation, victim: Victim) -> str:
    return operation.path.format(session_id=victim.session.id, key=victim.session.inputs[0].key, path="tryon.js")


async def socket_status(url: str, credential: Shown) -> tuple[int, str]:
    """Return 101 for a socket that shows something, else the code that closed it.

    With the frames until then; those of an owner's socket end with ``synced``.
    """
    text = ""
    query = httpx.QueryParams(dict(credential.query))
    try:
        async with connect(f"{url}?{query}", additional_headers=dict(credential.headers), proxy=None) as socket:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    text += str(await socket.recv())
                    if '"synced"' in text or ('"snapshot"' in text and "/sessions/" in url):
                        return 101, text
            return socket.close_code or 0, text
    except InvalidStatus as refused:
        return refused.response.status_code, text


async def stream_status(client: httpx.AsyncClient, path: str, credential: Shown) -> tuple[int, str]:
    """Return the status of an owner's stream, and its frames until ``synced``."""
    text = ""
    query, headers = dict(credential.query), dict(credential.headers)
    async with client.stream("GET", path, params=query, headers=headers) as answer:
        async for piece in answer.aiter_text():
            text += piece
            if '"synced"' in text:
                break
    return answer.status_code, text


async def answered(victim: Victim, operation: Operation, credential: Shown) -> tuple[int, str]:
    """Return status and text of the operation's answer."""
    path = path_of(operation, victim)
    if isinstance(operation.handler, Socket):
        url = f"ws://127.0.0.1:{victim.web.port}{path}"
        status, text = await socket_status(url, credential)
        return status, "" if operation.name == "socket" else text
    if operation.name == "owner_events":
        return await stream_status(victim.web.client, path, credential)
    answer = await victim.web.client.request(
        operation.method, path, params=dict(credential.query), headers=dict(credential.headers)
    )
    return answer.status_code, answer.text


def test_every_operation_has_a_row() -> None:
    """A new operation must say what strangers get."""
    assert [operation.name for operation in OPERATIONS] == list(EXPECTED)
    for row in EXPECTED.values():
        assert set(row) == set(CREDENTIALS)


async def test_foreign_credentials_get_nothing(web: Web) -> None:
    """Each is refused as its row says, shows nothing and changes nothing."""
    seen = {}
    for operation in OPERATIONS:
        victim = await make_victim(web)
        before = await web.database.reader.get(victim.session.id)
        for name, credential in CREDENTIALS.items():
            status, text = await answered(victim, operation, credential(victim))
            busy = status == 503 and operation.name in ("health", "ready")  # a slow database, which strangers may know
            seen[operation.name, name] = 200 if busy else status
            if operation.name not in ("session", "history", "events") or seen[operation.name, name] != 200:
                assert victim.session.id not in text, (operation.name, name)
            assert victim.token not in text, (operation.name, name)
        assert await web.database.reader.get(victim.session.id) == before, operation.name
    expected = {(operation, name): status for operation, row in EXPECTED.items() for name, status in row.items()}
    assert seen == expected


async def test_owner_is_told_from_strangers(web: Web) -> None:
    """The same requests with the owner's token are answered: the refusals are real."""
    for operation in OPERATIONS:
        if operation.name in ("file", "submit"):
            continue
        victim = await make_victim(web)
        status, _ = await answered(victim, operation, shown({"X-Client-Token": victim.token}))
        others = {"socket": 101, "owner_socket": 101, "retry": 409, "share": 201, "crash": 404}
        assert status == others.get(operation.name, 200), operation.name
