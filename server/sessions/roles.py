"""The inputs that a processor takes, and the parts of an upload that carry them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from server.domain.images import judge_pixels
from server.domain.stored_files import NewFile, StoredFile
from tryon.processor.description import UPLOAD_TYPES
from tryon.processor.interface import IMAGE_TYPES, Info, Role
from tryon.protocol.errors import TooLarge, Unprocessable, UnsupportedMedia

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

    def copied(self, stored: Sequence[StoredFile], *, sent: Collection[str] = ()) -> list[StoredFile]:
        """Return the photos of an earlier session that a new one copies.

        Those are all of them but those of the roles that were ``sent``. Each is judged
        as an upload of it would be. Raises Unprocessable, TooLarge or UnsupportedMedia
        for the first that does not fit, and for a required role that has no photo.
        """
        by_name = {role.name: role for role in self.all}
        files = [file for file in stored if file.role not in sent]
        for file in files:
            role = by_name.get(file.role)
            if role is None:
                raise Unprocessable("unknown_input", f"The try-on takes no file named {file.role}.", part=file.role)
            if file.index >= role.count:
                text = f"There are more than {role.count} parts named {file.role}."
                raise Unprocessable("unknown_input", text, part=file.role)
            if role.formats and file.type not in role.formats and CONVERTED.isdisjoint(role.formats):
                raise UnsupportedMedia("unsupported_image", part=file.role)
            if role.max_bytes is not None and file.bytes > role.max_bytes:
                raise TooLarge(part=file.role)
            if role.max_pixels is not None:
                try:
                    judge_pixels(file.width, file.height, role.max_pixels)
                except Unprocessable as error:
                    error.part = file.role
                    raise
        found = {*sent, *(file.role for file in files)}
        for role in self.all:
            if role.required and role.name not in found:
                raise Unprocessable("missing_image", f"The part named {role.name} is missing or empty.", part=role.name)
        return files

    def in_order(self, files: Sequence[NewFile]) -> list[NewFile]:
        """Return the files by role; those of one role in their order."""
        return [file for role in self.all for file in files if file.role == role.name]


DEFAULT_ROLES: Final = Roles(Info(name="mock").roles)
"""A photo of a person, and one of a garment if there is one."""
