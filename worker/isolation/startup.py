"""Whether processors can be started: the failures so far, and the one that is final.

A wrong setting shows when the first child makes its processor; the worker then refuses
to start. Later failures are no setting's fault: chance kills a child or two, the third
in a row means that this worker runs no session any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from server.config.settings import ConfigError
from server.system import sandbox
from tryon.processor import Info
from worker.isolation.errors import NotStarted, NotStartedAgain
from worker.processors.registry import unusable

log = logging.getLogger("tryon.worker")

START_TRIES: Final = 3
"""Children or fork servers in a row that may fail before they are ready."""


class Startup:
    """The starts of a worker's processors.

    ``on_error`` is called once, when none can be started any more: with
    :class:`NotStartedAgain` if one was ready before.
    """

    def __init__(self, name: str, *, on_error: Callable[[Exception], None], closing: asyncio.Event) -> None:
        self._name = name
        self._on_error = on_error
        self._closing = closing
        self._failed_starts = 0
        self._logged_sandbox = False
        self.made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """A child has made its processor: the settings are right. Else ConfigError."""
        self.made.add_done_callback(asyncio.Future.exception)  # it is seen, also when no call waits
        self.error: NotStarted | None = None
        """Error of every session, once no processor can be started."""
        self.resumes = True
        """Whether the processor can go on from a checkpoint; known with ``info``."""
        self.forgets = True
        """Whether the processor can delete what its upstream keeps."""
        self.info: asyncio.Future[Info] = asyncio.get_running_loop().create_future()
        """Of the first processor that was ready; an exception if there can be none."""
        self.info.add_done_callback(asyncio.Future.exception)  # it is seen, also when no call waits

    def __repr__(self) -> str:
        return f"<Startup {self._name} built={self.built} failed_starts={self._failed_starts} error={self.error!r}>"

    @property
    def built(self) -> bool:
        """Whether a child has made its processor."""
        return self.made.done() and self.made.exception() is None

    def note_made(self) -> None:
        """Note that a child has made its processor."""
        if not self.made.done():
            self.made.set_result(None)

    def note_ready(
        self, info: Info, missing: Iterable[str] = (), *, resumes: bool = True, forgets: bool = True
    ) -> None:
        """Note that a child is ready: the failures in a row end.

        ``missing``: layers of its sandbox that this machine lacks; logged once.
        """
        if not self._logged_sandbox:
            self._logged_sandbox = True
            sandbox.log_missing(log, "processors", missing)
        self.note_made()
        self._failed_starts = 0
        if not self.info.done():
            self.resumes, self.forgets = resumes, forgets
            self.info.set_result(info)

    def may_retry(self) -> bool:
        """Count a failed start; return whether the child may be started again."""
        self._failed_starts += 1
        return self._failed_starts < START_TRIES and not self._closing.is_set()

    def give_up(self, error: Exception) -> Exception:
        """Return the error for the sessions, or the worker, that wait for a processor.

        A :class:`ConfigError` if no processor was ever made, else :class:`NotStarted`;
        then no session is begun from now on.
        """
        if not self.built:
            wrong = error if isinstance(error, ConfigError) else unusable(self._name, error)
            if not self.made.done():
                self.made.set_exception(wrong)
            self._end_wait(wrong)
            return wrong
        if self.error is None:
            not_started = NotStarted()
            not_started.__cause__ = error
            was_ready = self.info.done()
            self._end_wait(not_started)
            if self._closing.is_set():
                return not_started
            self.error = not_started
            self._on_error(NotStartedAgain(error) if was_ready else error)
        return self.error

    def _end_wait(self, error: Exception) -> None:
        if not self.info.done():
            self.info.set_exception(error)
