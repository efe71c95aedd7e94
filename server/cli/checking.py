"""Photos and parameters as the server would judge them, before they are sent.

The rules are the server's own code, the limits those that the server publishes. A
photo that passes may still be refused: only its first bytes and header are read.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from PIL import Image

from server.cli.connecting import Refused
from server.cli.wording import size
from server.domain.images import (
    MAGIC_BYTES,
    UPLOADED,
    ImageFormat,
    Limits,
    judge,
    judge_pixels,
    refusal,
    refused_for_role,
    sniff,
)
from server.sessions.roles import ALIAS
from server.web.api.params import parse_params, resolve
from tryon.client.api import AsyncTryOn
from tryon.client.problems import Problem
from tryon.processor.params import BadSchema, ParamsSchema
from tryon.protocol.errors import TooLarge, TryOnError, Unprocessable, UnsupportedMedia
from tryon.protocol.limits import LimitsView
from tryon.protocol.processors import ProcessorView, RoleView
from tryon.protocol.views import Params

_HEADERS: Final = frozenset({ImageFormat.JPEG, ImageFormat.PNG, ImageFormat.WEBP})
"""Formats whose size stands in the first bytes, and is read without decoding."""


async def check(tryon: AsyncTryOn, photos: Sequence[tuple[str, Path]], params: Params | None, *, copied: bool) -> None:
    """Raise Refused for the first thing that the server would refuse.

    ``photos``: each with the name of its part. ``copied``: roles that are not sent are
    copied from another session. A server that publishes no limits judges by itself.
    Raises Problem if it does not answer, OSError for a file that cannot be read.
    """
    try:
        limits, processor = await asyncio.gather(tryon.limits(), tryon.processor())
    except Problem as problem:
        if problem.status != 404:
            raise
        return
    judge_upload(photos, params, processor, limits, copied=copied)


def judge_upload(
    photos: Sequence[tuple[str, Path]],
    params: Params | None,
    processor: ProcessorView,
    limits: LimitsView,
    *,
    copied: bool,
) -> None:
    """Raise Refused for the first thing that does not fit the limits."""
    found: list[tuple[str, Path, RoleView]] = []
    for part, path in photos:
        role = next((each for each in processor.roles if part in (each.name, _alias(processor, each))), None)
        with _refusing(_taken_roles(processor)):
            if role is None:
                raise Unprocessable("unknown_input", f"The try-on takes no file named {part}.", part=part)
            if sum(each is role for _, _, each in found) >= role.count:
                text = f"There are more than {role.count} parts named {part}."
                raise Unprocessable("unknown_input", text, part=part)
        found.append((part, path, role))
        _judge_file(part, path, role, limits)
    _judge_roles(processor, [role.name for _, _, role in found], copied=copied)
    for part, path, role in found:
        _judge_pixels(part, path, role, limits)
    if sum(path.stat().st_size for _, path in photos) > limits.max_body_bytes:
        with _refusing(f"All photos together may have {size(limits.max_body_bytes)}. Make them smaller."):
            raise TooLarge
    if params is not None:
        _judge_params(params, processor, limits)


def _alias(processor: ProcessorView, role: RoleView) -> str | None:
    return ALIAS if role is processor.roles[0] else None


def _judge_file(part: str, path: Path, role: RoleView, limits: LimitsView) -> None:
    """Judge a photo by its first bytes and its size."""
    with path.open("rb") as file:
        head = file.read(MAGIC_BYTES)
    bytes = path.stat().st_size
    if not bytes:
        with _refusing(f"{path} is empty."):
            raise Unprocessable("missing_image", f"The part named {part} is missing or empty.", part=part)
    known = sniff(head)
    taken = {UPLOADED[each] for each in limits.formats if each in UPLOADED}
    with _refusing(f"{path} was not sent. Taken are {_names(role.formats or limits.formats)}."):
        if known is None or known not in taken:
            raise UnsupportedMedia("unsupported_image", refusal(head), part=part)
        if refused := refused_for_role(known, [each for each in role.formats if each in UPLOADED]):
            raise UnsupportedMedia("unsupported_image", refused, part=part)
    most = min(limits.max_image_bytes, role.max_bytes or limits.max_image_bytes)
    with _refusing(f"{path} has {size(bytes)}, at most {size(most)} are taken. Make it smaller, or save it as JPEG."):
        if bytes > most:
            raise TooLarge(part=part)


def _judge_roles(processor: ProcessorView, given: Collection[str], *, copied: bool) -> None:
    for role in processor.roles:
        if role.required and role.name not in given and not copied:
            with _refusing(f"Add --input {role.name}=FILE."):
                raise Unprocessable("missing_image", f"The part named {role.name} is missing or empty.", part=role.name)


def _judge_pixels(part: str, path: Path, role: RoleView, limits: LimitsView) -> None:
    pixels = pixels_of(path)
    if pixels is None:
        return
    sides = Limits(min_side=limits.min_side, max_side=limits.max_side, max_pixels=limits.max_pixels)
    with _refusing(f"{path} was not sent. Scale it, or use another one.", part=part):
        judge(*pixels, sides)
        if role.max_pixels is not None:
            judge_pixels(*pixels, role.max_pixels)


def pixels_of(path: Path) -> tuple[int, int] | None:
    """Return width and height as a photo's header says; None if that is not cheap."""
    with path.open("rb") as file:
        known = sniff(file.read(MAGIC_BYTES))
    if known is None or known not in _HEADERS:
        return None
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # nothing is decoded
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=[known.value]) as image:
            return image.size
    except Exception:  # of any kind, for a damaged file; the server says what is wrong with it
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = most


def _judge_params(params: Params, processor: ProcessorView, limits: LimitsView) -> None:
    try:
        schema = ParamsSchema(processor.params_schema)
    except BadSchema:  # of a newer server
        return
    names = ", ".join(processor.params_schema.get("properties", {}))
    with _refusing(f"Parameters here: {names}." if names else "This processor has no parameters of its own."):
        text = msgspec.json.encode(params)
        if len(text) > limits.max_params_bytes:
            raise Unprocessable("bad_params", part="params", pointer="")
        resolve(parse_params(text), schema)


@contextlib.contextmanager
def _refusing(advice: str, *, part: str | None = None) -> Iterator[None]:
    """Turn a refusal of the server's code into one of this program, with advice."""
    try:
        yield
    except TryOnError as error:
        refused = Refused(
            error.code,
            error.detail,
            status=error.status,
            title=error.title,
            retryable=error.retryable,
            part=error.part or part,
            pointer=error.pointer,
        )
        refused.advice = advice
        raise refused from None


def _taken_roles(processor: ProcessorView) -> str:
    roles = (f"{role.name} (up to {role.count})" if role.count > 1 else role.name for role in processor.roles)
    return f"It takes: {', '.join(roles)}."


def _names(formats: Sequence[str]) -> str:
    return ", ".join(UPLOADED[each].name for each in formats if each in UPLOADED)


def parts_of(image: Path | None, garment: Path | None, inputs: Mapping[str, Sequence[Path]]) -> list[tuple[str, Path]]:
    """Return the photos of a command, each with the name of its part, in order."""
    named = [(name, path) for name, path in ((ALIAS, image), ("garment", garment)) if path is not None]
    return named + [(role, path) for role, paths in inputs.items() for path in paths]
