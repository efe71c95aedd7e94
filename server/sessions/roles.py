"""The inputs that a processor takes, and the parts of an upload that carry them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tryon.processor.interface import Info, Role

ALIAS: Final = "image"
"""Name of a part that stands for the first role."""


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of a processor's inputs, in its own order."""

    all: tuple[Role, ...]

    def of_part(self, name: str) -> Role | None:
        """Return the role whose input a part of this name carries; None for no role."""
        for role in self.all:
            if role.name == name:
                return role
        return self.all[0] if name == ALIAS and self.all else None


DEFAULT_ROLES: Final = Roles(Info(name="mock").roles)
"""A photo of a person, and one of a garment if there is one."""
