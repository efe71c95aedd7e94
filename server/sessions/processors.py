"""The processor that uploads are judged by: what the workers have published of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from server.adapters.database.processors import Processors, PublishedProcessor
from server.system.clock import Clock
from tryon.processor.params import BadSchema, ParamsSchema
from tryon.protocol.errors import Unavailable
from tryon.protocol.processors import ProcessorView

log = logging.getLogger("tryon.sessions")

FRESH_SECONDS: Final = 1.0
"""Maximum age of a description that an upload is judged by."""

LEASE_SECONDS: Final = 30.0
"""How long a description counts as a living worker's."""

RENEW_SECONDS: Final = 10.0
"""Time between two publications of a worker."""

RETRY_SECONDS: Final = 2.0
"""``Retry-After`` while there is no description; pause of a worker that could not
publish its own.
"""


@dataclass(frozen=True, slots=True)
class CurrentProcessor:
    """The description that judges uploads."""

    view: ProcessorView
    params: ParamsSchema
    disagreement: str | None
    """How the living workers disagree with this server or with each other."""


class ProcessorDirectory:
    """Reads and publishes what workers say of their processors.

    ``setting``: ``TRYON_PROCESSOR`` of this process. State: the last reading, which all
    uploads of a second share.
    """

    def __init__(self, *, rows: Processors, setting: str, clock: Clock) -> None:
        self._rows = rows
        self._setting = normal(setting)
        self._clock = clock
        self._lock = asyncio.Lock()
        self._read_at = float("-inf")
        self._rows_read: Sequence[PublishedProcessor] = ()
        self._schemas: dict[str, CurrentProcessor] = {}
        """The processors that were made of a description, by its text."""

    def __repr__(self) -> str:
        return f"<ProcessorDirectory {self._setting} rows={len(self._rows_read)}>"

    async def publish(self, worker: str, first: ProcessorView) -> None:
        """Publish this worker's first processor for the next :data:`LEASE_SECONDS`.

        It judges uploads; those behind it in the setting run when it fails. All are
        named as in the setting, as in sessions, events and metrics. Raises Unavailable.
        """
        name, *others = self._setting.split(",")
        view = msgspec.structs.replace(first, name=name, fallbacks=others)
        text = msgspec.json.encode(view, order="sorted").decode()
        await self._rows.publish(worker, setting=self._setting, description=text, seconds=LEASE_SECONDS)

    async def withdraw(self, worker: str) -> None:
        """Say that this worker stops. Raises Unavailable."""
        await self._rows.withdraw(worker)

    async def current(self) -> CurrentProcessor:
        """Return the processor that judges uploads now.

        That is what the newest living worker with this server's setting has published,
        or the last one that lived. Raises Unavailable if none ever has, or if all
        living workers run something else.
        """
        if self._fresh():
            return self._judge(self._rows_read)
        async with self._lock:
            if not self._fresh():
                rows = await self._rows.all()
                found = self._judge(rows)
                if found.view.available:  # else the first worker may be there the next moment: `./run` waits for it
                    self._rows_read, self._read_at = rows, self._clock.monotonic()
                return found
        return self._judge(self._rows_read)

    async def running(self) -> set[str]:
        """Return the names of all processors that a living worker has.

        Raises Unavailable.
        """
        return {name for row in await self._rows.all() if row.living for name in row.setting.split(",")}

    def _fresh(self) -> bool:
        return self._clock.monotonic() - self._read_at < FRESH_SECONDS

    def _judge(self, rows: Sequence[PublishedProcessor]) -> CurrentProcessor:
        living = [row for row in rows if row.living]
        ours = [row for row in rows if row.setting == self._setting]
        if living and not any(row.setting == self._setting for row in living):
            others = ", ".join(sorted({row.setting for row in living}))
            raise Unavailable(
                "unavailable",
                f"The workers run the processor {others}; this server is set to {self._setting}.",
                retry_after=RETRY_SECONDS,
            )
        if not ours:
            raise Unavailable(
                "unavailable", "No worker has said yet what its processor takes.", retry_after=RETRY_SECONDS
            )
        row = max(ours, key=lambda each: (each.living, each.published_at if each.living else each.expires_at))
        return self._made(row, disagreement(self._setting, living))

    def _made(self, row: PublishedProcessor, differs: str | None) -> CurrentProcessor:
        made = self._schemas.get(row.description)
        if made is None:
            try:
                view = msgspec.json.decode(row.description, type=ProcessorView)
                made = CurrentProcessor(view, ParamsSchema(view.params_schema), None)
            except (msgspec.MsgspecError, BadSchema) as error:  # of another release
                log.error("The description of the processor %s cannot be used: %s", self._setting, error)
                raise Unavailable("unavailable", retry_after=RETRY_SECONDS) from None
            self._schemas = {row.description: made}
        if (made.view.available, made.disagreement) == (row.living, differs):
            return made
        view = msgspec.structs.replace(made.view, available=row.living)
        return CurrentProcessor(view, made.params, differs)


def normal(setting: str) -> str:
    """Return a setting without the spaces that mean nothing."""
    return ",".join(each.strip() for each in setting.split(","))


def disagreement(setting: str, living: Sequence[PublishedProcessor]) -> str | None:
    """Return how the living workers disagree, for the operator; None if they don't."""
    others = sorted({row.setting for row in living} - {setting})
    if others:
        return f"This server is set to {setting}; some workers run {', '.join(others)}."
    if len({row.description for row in living}) > 1:
        return "The workers describe their processor in different ways: some run another version, or other options."
    return None
