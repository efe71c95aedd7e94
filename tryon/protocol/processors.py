"""What a processor says of itself, as JSON: roles, params, outputs, privacy.

A worker publishes it, uploads are judged by it, and ``GET /api/tryon/processor``
answers with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class RoleView(msgspec.Struct, frozen=True):
    """A kind of input: the name of its part in an upload, and its limits."""

    name: str
    required: bool = False
    count: int = 1
    formats: list[str] = []
    max_bytes: int | None = None
    max_pixels: int | None = None
    hint: str = ""


class OutputRoleView(msgspec.Struct, frozen=True):
    """A kind of output: its types, and how many of it there may be."""

    name: str
    types: list[str]
    count: int = 1


class ProcessorView(msgspec.Struct, frozen=True):
    """A processor, as clients see it.

    The part ``image`` of an upload stands for the first role. ``fallbacks``: names of
    the processors that may run when this one fails. ``available``: whether a worker
    with this processor runs now.
    """

    name: str
    version: str
    label: str
    roles: list[RoleView]
    params_schema: Mapping[str, Any]
    outputs: list[OutputRoleView]
    generated: bool
    privacy: str
    typical_seconds: float | None
    cancel: bool
    preview: bool
    fallbacks: list[str] = []
    available: bool = True
