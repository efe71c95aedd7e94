"""The inputs that a processor takes, and the parts of an upload that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from server.domain.stored_files import NewFile, StoredFile
from tryon.processor.description import UPLOAD_TYPES
from tryon.processor.interface import IMAGE_TYPES, Info, Role
from tryon.protocol.errors import TooLarge, Unprocessable, UnsupportedMedia

F = TypeVar("F", NewFile, StoredFile)

CONVERTED: Final = frozenset(UPLOAD_TYPES) - frozenset(IMAGE_TYPES)
"""Types that are stored as another one: with one of them, a stored file's own type says
nothing of the upload's.
"""

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

    def check(self, stored: Sequence[StoredFile]) -> None:
        """Judge the photos of an earlier session as an upload of them would be.

        Raises Unprocessable, TooLarge or UnsupportedMedia for the first that does not
        fit.
        """
        by_name = {role.name: role for role in self.all}
        for file in stored:
            role = by_name.get(file.role)
            if role is None or file.index >= role.count:
                raise Unprocessable(
                    "unknown_input", f"The try-on takes no file named {file.role} any more.", part=file.role
                )
            if role.formats and file.type not in role.formats and CONVERTED.isdisjoint(role.formats):
                raise UnsupportedMedia("unsupported_image", part=file.role)
            if role.max_bytes is not None and file.bytes > role.max_bytes:
                raise TooLarge(part=file.role)
            if role.max_pixels is not None and file.width * file.height > role.max_pixels:
                raise Unprocessable("too_many_pixels", part=file.role)
        self.completed([], stored)

    def completed(self, sent: Sequence[F], copies: Sequence[F]) -> list[F]:
        """Return the files that were sent, by role, and the copies of the other roles.

        Raises Unprocessable if a required role has neither.
        """
        files: list[F] = []
        for role in self.all:
            own = [file for file in sent if file.role == role.name]
            own = own or [file for file in copies if file.role == role.name][: role.count]
            if role.required and not own:
                raise Unprocessable("missing_image", f"The part named {role.name} is missing or empty.", part=role.name)
            files += own
        return files


DEFAULT_ROLES: Final = Roles(Info(name="mock").roles)
"""A photo of a person, and one of a garment if there is one."""
