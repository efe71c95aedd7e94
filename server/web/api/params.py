"""The ``params`` part of an upload: a small JSON object, judged by the processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import msgspec

from server.domain.client_json import BadJson, TooDeep, decode_json
from server.domain.session import MAX_SEED
from tryon.processor.params import BadParams, ParamsSchema
from tryon.protocol.errors import Unprocessable
from tryon.protocol.views import Params

MAX_PARAMS_BYTES: Final = 4096
MAX_PARAMS_DEPTH: Final = 16

MAX_FILLED_BYTES: Final = 64 * 1024
"""Maximum bytes of params with the defaults of the processor."""


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
        raise _refused(BadParams("", f"may be nested at most {MAX_PARAMS_DEPTH} deep")) from None
    except BadJson:
        raise Unprocessable("bad_params", part="params", pointer="") from None
    _check(values)
    return values


@dataclass(frozen=True, slots=True)
class Resolved:
    """Parameters of a run: the params with all defaults, and the seed.

    ``seed``: None is to be drawn. ``seed_chosen``: whether the client chose it.
    """

    params: Params
    seed: int | None
    seed_chosen: bool


def resolve(values: Params, schema: ParamsSchema) -> Resolved:
    """Return what a session with these params runs with.

    Raises Unprocessable: ``bad_params`` with a pointer to what does not fit.
    """
    chosen = values.get("seed")
    if chosen is not None and not _is_seed(chosen):
        raise _refused(BadParams("/seed", f"must be a whole number from 0 to {MAX_SEED}"))
    return _resolved(values, None if chosen is None else int(chosen), schema)


def resolve_again(params: Params, chosen: int | None, schema: ParamsSchema) -> Resolved:
    """Return what a retry of a session with these params runs with, as :func:`resolve`.

    ``chosen``: the seed that the client chose for the session; None: it chose none.
    """
    known = chosen is None or params.get("seed") == chosen
    return _resolved(params if known else {**params, "seed": chosen}, chosen, schema)


def _resolved(values: Params, chosen: int | None, schema: ParamsSchema) -> Resolved:
    """Apply the one rule of seeds: chosen, else of the params, else drawn."""
    if not schema.allows("seed"):  # it is the session's, whatever the processor's own params are
        values = {name: value for name, value in values.items() if name != "seed"}
    params = checked(values, schema)
    seed = chosen if chosen is not None else params.get("seed")
    return Resolved(params, int(seed) if _is_seed(seed) else None, chosen is not None)


def checked(values: Params, schema: ParamsSchema) -> Params:
    """Return the params with the schema's defaults.

    Raises Unprocessable: ``bad_params`` with a pointer to what does not fit.
    """
    try:
        filled = schema.check(values)
    except BadParams as error:
        raise _refused(error) from None
    if len(msgspec.json.encode(filled)) > MAX_FILLED_BYTES:
        raise _refused(BadParams("", "is too large with the defaults of the processor"))
    return filled


def _is_seed(value: object) -> TypeGuard[int | float]:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value <= MAX_SEED and value == int(value)


def _refused(error: BadParams) -> Unprocessable:
    place = f"params{error.pointer}" if error.pointer else "params"
    return Unprocessable("bad_params", f"{place} {error.message}.", part="params", pointer=error.pointer)


def _check(value: Any) -> None:
    match value:
        case str():
            if "\0" in value:
                raise _refused(BadParams("", "must not contain the character NUL"))
        case int():
            if not -(2**63) <= value < 2**63:
                raise _refused(BadParams("", "must not contain a whole number of more than 64 bits"))
        case dict() | list():
            for inner in [*value.keys(), *value.values()] if isinstance(value, dict) else value:
                _check(inner)
