"""The AsyncAPI 3 document of the socket, made from the frames and the close codes."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, Final

from server.web.api.operations import TOKEN_OR_TICKET
from server.web.docs.examples import (
    CLIENT_MESSAGES,
    FRAMES,
    OWNER_FRAMES,
    OWNER_MESSAGES,
    SESSION_ID,
    plain,
)
from server.web.docs.openapi import INFO
from server.web.docs.schemas import JSON, PARAMETERS, SECURITY, Schema, markdown, ref, schemas
from server.web.transports.inbound import INBOUND_LIMIT, INBOUND_SECONDS
from tryon.protocol import paths
from tryon.protocol.close_codes import CLOSE_CODES, CloseCode
from tryon.protocol.errors import CODES
from tryon.protocol.frames import BEARER_SUBPROTOCOL, SUBPROTOCOL

ABOUT: Final = (
    "The server sends first; a client never has to send anything. One JSON object per text frame. "
    "The first frame of every connection is a snapshot. Clients ignore unknown types and fields. "
    "The last frame is `bye`, then the close code."
)
SAY: Final = (
    "Frames that a client may send; any other is ignored. "
    f"{INBOUND_LIMIT} messages in {INBOUND_SECONDS:g} seconds at most, then {CloseCode.MISUSE}."
)

SAY_TO_ALL: Final = "The same where a connection follows all sessions of an owner; a `sync` names them."


def _errors_closed_with(code: int) -> list[str]:
    """Return the errors that set this close code; only those ever close a socket."""
    return [name for name, error in CODES.items() if error.close_code == code and "close_code" in vars(error)]


def _message(struct: type, example: Any) -> tuple[str, Schema]:
    tag = struct.__struct_config__.tag  # type: ignore[attr-defined]  # every struct has it
    return tag, {
        "name": tag,
        "title": tag,
        "summary": markdown(struct.__doc__ or ""),
        "contentType": JSON,
        "payload": ref("schemas", struct.__name__),
        "examples": [{"name": tag, "payload": plain(example)}],
    }


_SINCE: Final = {"since": PARAMETERS["since"], "ticket": {"schema": {"type": "string"}} | SECURITY["ticket"]}
_SINCE_ALL: Final = {"since": PARAMETERS["since_all"]}


def _handshake(parameters: dict[str, Schema]) -> Schema:
    """Return the query and the headers of the opening request."""
    query = {
        "type": "object",
        "properties": {
            name: {"type": schema["schema"]["type"], "description": schema["description"]}
            for name, schema in parameters.items()
        },
    }
    offered = {
        "type": "object",
        "properties": {
            "Sec-WebSocket-Protocol": {
                "type": "string",
                "description": f"`{SUBPROTOCOL}`, or `{SUBPROTOCOL}, {BEARER_SUBPROTOCOL}<token>` from a browser.",
            }
        },
    }
    return {"method": "GET", "query": query, "headers": offered, "bindingVersion": "0.1.0"}


def _operation(action: str, summary: str, messages: Iterable[str], channel: str = "session") -> Schema:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }


def _close_codes() -> list[Schema]:
    return [
        {
            "code": row.code,
            "meaning": row.meaning,
            "reconnect": row.reconnect.value,
            "reasons": [*row.reasons, *_errors_closed_with(row.code)],
        }
        for row in CLOSE_CODES
    ]


def _received(messages: dict[type, Any]) -> dict[str, Schema]:
    return {f"client_{tag}": body for tag, body in (_message(s, e) for s, e in messages.items())}


@functools.cache
def asyncapi() -> Schema:
    """Return the AsyncAPI 3 document of the socket."""
    sent = dict(_message(struct, example) for struct, example in FRAMES.items())
    received = _received(CLIENT_MESSAGES)
    sent_to_all = sent | dict(_message(struct, example) for struct, example in OWNER_FRAMES.items())
    received_of_all = {name.replace("sync", "sync_all"): body for name, body in _received(OWNER_MESSAGES).items()}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": f"TryOn Push: the socket, {SUBPROTOCOL}", "description": ABOUT} | INFO,
        "servers": {
            "here": {
                "host": "{host}",
                "protocol": "ws",
                "variables": {"host": {"default": "127.0.0.1:8000", "description": "Host and port of the service."}},
                "security": [ref("securitySchemes", name) for name in TOKEN_OR_TICKET],
            }
        },
        "defaultContentType": JSON,
        "channels": {
            "session": {
                "address": paths.SOCKET,
                "title": "One session",
                "parameters": {
                    "session_id": {"description": "From the answer to the upload.", "examples": [SESSION_ID]}
                },
                "messages": {name: ref("messages", name) for name in (*sent, *received)},
                "bindings": {"ws": _handshake(_SINCE)},
            },
            "owner": {
                "address": paths.OWNER_SOCKET,
                "title": "All sessions of an owner",
                "messages": {name: ref("messages", name) for name in (*sent_to_all, *received_of_all)},
                "bindings": {"ws": _handshake(_SINCE_ALL)},
            },
        },
        "operations": {
            "follow": _operation("send", "Frames that the server sends.", sent),
            "say": _operation("receive", SAY, received),
            "follow_all": _operation(
                "send",
                "Frames that the server sends besides, where a connection follows all sessions of an owner.",
                sent_to_all,
                "owner",
            ),
            "say_all": _operation("receive", SAY_TO_ALL, received_of_all, "owner"),
        },
        "components": {
            "schemas": schemas([*FRAMES, *OWNER_FRAMES, *CLIENT_MESSAGES, *OWNER_MESSAGES]),
            "messages": sent_to_all | received | received_of_all,
            "securitySchemes": {
                "bearer": SECURITY["bearer"],
                "client_token": SECURITY["client_token"] | {"type": "httpApiKey"},
                "ticket": SECURITY["ticket"] | {"type": "httpApiKey"},
            },
        },
        "x-close-codes": _close_codes(),
    }
