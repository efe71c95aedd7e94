"""A processor's info as the JSON that workers publish; what cannot be kept is refused.

Uploads are judged by this description for as long as no other one is published, so it
is judged first.
"""

from __future__ import annotations

from typing import Final

from tryon.processor.interface import IMAGE_TYPES, Info
from tryon.processor.params import BadSchema, ParamsSchema
from tryon.protocol.processors import OutputRoleView, ProcessorView, RoleView

UPLOAD_TYPES: Final = (*IMAGE_TYPES, "image/avif", "image/heic")
"""Types that a role may take: those of jobs, and those that are converted."""

RESERVED: Final = frozenset({"image", "params", "from"})
"""Names of parts of an upload that no role may have."""

MAX_INPUTS: Final = 12
"""Inputs of all roles together: the form of an upload has 16 parts at most."""


class BadInfo(ValueError):
    """A processor says something of itself that uploads cannot be judged by."""


def describe(info: Info) -> ProcessorView:
    """Return the description. Raises BadInfo: one line that says what is wrong."""
    for role in info.roles:
        if role.name in RESERVED:
            raise BadInfo(f"a role is named {role.name}, which uploads use for something else")
        if not set(role.formats) <= set(UPLOAD_TYPES):
            raise BadInfo(f"the role {role.name} takes {', '.join(role.formats)}, not only {', '.join(UPLOAD_TYPES)}")
        if any(limit is not None and limit <= 0 for limit in (role.max_bytes, role.max_pixels)):
            raise BadInfo(f"a limit of the role {role.name} is not above 0")
    if sum(role.count for role in info.roles) > MAX_INPUTS:
        raise BadInfo(f"its roles take more than {MAX_INPUTS} inputs together")
    try:
        ParamsSchema(info.params_schema)
    except BadSchema as error:
        raise BadInfo(f"its params_schema: {error}") from None
    return ProcessorView(
        name=info.name,
        version=info.version,
        label=info.label,
        roles=[
            RoleView(
                name=role.name,
                required=role.required,
                count=role.count,
                formats=list(role.formats),
                max_bytes=role.max_bytes,
                max_pixels=role.max_pixels,
                hint=role.hint,
            )
            for role in info.roles
        ],
        params_schema=dict(info.params_schema),
        outputs=[OutputRoleView(each.name, list(each.types), each.count) for each in info.outputs],
        generated=info.generated,
        privacy=info.privacy,
        typical_seconds=info.typical_seconds,
        cancel=info.cancel,
        preview=info.preview,
    )
