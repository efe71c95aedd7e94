"""The ``params`` part of an upload: a small JSON object of the client's own."""

from __future__ import annotations

from typing import Any, Final

from server.domain.client_json import BadJson, TooDeep, decode_json
from tryon.protocol.errors import Unprocessable
from tryon.protocol.views import Params

MAX_PARAMS_BYTES: Final = 4096
MAX_PARAMS_DEPTH: Final = 16


def parse_params(data: bytes) -> Params:
    """Return the object in ``data``, strict JSON (RFC 8259); {} for an unfilled field.

    Raises Unprocessable for anything else, and for an object that a JSON encoder or one
    of the databases could not keep.
    """
    if not data.strip():
        return {}
    try:
        values = decode_json(data, dict[str, Any], max_depth=MAX_PARAMS_DEPTH)
    except TooDeep:
        raise Unprocessable("bad_params", f"params may be nested at most {MAX_PARAMS_DEPTH} deep.") from None
    except BadJson:
        raise Unprocessable("bad_params") from None
    _check(values)
    return values


def _check(value: Any) -> None:
    match value:
        case str():
            if "\0" in value:
                raise Unprocessable("bad_params", "params must not contain the character NUL.")
        case int():
            if not -(2**63) <= value < 2**63:
                raise Unprocessable("bad_params", "A whole number in params has more than 64 bits.")
        case dict() | list():
            for inner in [*value.keys(), *value.values()] if isinstance(value, dict) else value:
                _check(inner)
