"""The inputs that a processor takes, and the parts of an upload that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from server.domain.stored_files import NewFile
from tryon.processor.interface import Info, Role
from tryon.protocol.errors import Unprocessable

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

    def completed(self, sent: Sequence[NewFile], copies: Sequence[NewFile]) -> list[NewFile]:
        """Return the files that were sent, by role, and the copies of the other roles.

        Raises Unprocessable if a required role has neither.
        """
        files: list[NewFile] = []
        for role in self.all:
            own = [file for file in sent if file.role == role.name]
            own = own or [file for file in copies if file.role == role.name][: role.count]
            if role.required and not own:
                raise Unprocessable("missing_image", f"The part named {role.name} is missing or empty.", part=role.name)
            files += own
        return files


DEFAULT_ROLES: Final = Roles(Info(name="mock").roles)
"""A photo of a person, and one of a garment if there is one."""
