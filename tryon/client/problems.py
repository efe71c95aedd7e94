"""Everything the client raises, in one tree.

Problem             a refusal, or a call without an answer
+-- NotCompleted    the session whose result was asked for ended otherwise
"""

from __future__ import annotations

from typing import Final

import msgspec

from tryon.client.network import Answer
from tryon.protocol.errors import CODES, FAILURES
from tryon.protocol.views import SessionView

_WORDS: Final = {
    "network": "The server did not answer.",
    "unknown": "The answer is not one of this product.",
    "closed": "The client is closed.",
    "erased": "The session was erased.",
    "cancelled": "The session was cancelled.",
}
"""Details of the client's own codes, where a problem comes without one."""


def _words(code: str) -> str:
    """Return the detail of a code that no refusal has; empty if it is unknown."""
    return FAILURES[code].detail if code in FAILURES else _WORDS.get(code, "")


class _Body(msgspec.Struct, frozen=True):
    code: str = "unknown"
    title: str = ""
    detail: str = ""
    retryable: bool | None = None
    request_id: str | None = None
    limit: str | None = None
    part: str | None = None
    pointer: str | None = None


class Problem(Exception):
    """A refusal (RFC 9457), or a call without an answer.

    ``code``: one of ``tryon.protocol.errors.CODES``, or with ``status`` 0 "network" for
    a call without an answer, "closed" for one that the client's close ended;
    ``detail`` is safe to show; ``retryable``: the same call may succeed later;
    ``retry_after``: in seconds, if the server named them; ``request_id``: finds the
    call in the server's log; ``limit``: the one that "rate_limited" or "over_quota"
    speaks of; ``part``: the part of the upload that was refused; ``pointer``: the
    place in its params (RFC 6901).
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        status: int = 0,
        title: str = "",
        retryable: bool | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        limit: str | None = None,
        part: str | None = None,
        pointer: str | None = None,
    ) -> None:
        known = CODES[code].codes[code] if code in CODES else None
        self.code = code
        self.status = status
        self.title = title or (known.title if known else "")
        self.detail = detail or (known.detail if known else _words(code) or title or "The server refused.")
        self.retryable = (known.retryable if known else False) if retryable is None else retryable
        self.retry_after = retry_after
        self.request_id = request_id
        self.limit = limit
        self.part = part
        self.pointer = pointer
        super().__init__(": ".join(filter(None, (code, self.detail))))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code!r}, {self.detail!r}, status={self.status})"


class NotCompleted(Problem):
    """The session ended as failed or cancelled, so it has no result.

    ``code`` is that of the session's error, or "cancelled". ``retryable``:
    ``TryOn.retry`` may succeed.
    """

    def __init__(self, session: SessionView) -> None:
        self.session = session
        error = session.error
        if error is None:
            super().__init__(session.status.value, f"The session was {session.status}.", retryable=True)
        else:
            super().__init__(error.code, error.message, retryable=error.retryable)


def problem_of(answer: Answer) -> Problem:
    """Return the problem that an answer carries.

    An answer that is not this product's has the code "unknown".
    """
    try:
        body = msgspec.json.decode(answer.body, type=_Body)
    except msgspec.MsgspecError:
        body = _Body(detail=f"The server answered {answer.status}.")
    retryable = body.retryable if body.retryable is not None else answer.status == 429 or answer.status >= 500
    return Problem(
        body.code,
        body.detail,
        status=answer.status,
        title=body.title,
        retryable=retryable,
        retry_after=answer.retry_after,
        request_id=body.request_id or answer.headers.get("x-request-id"),
        limit=body.limit,
        part=body.part,
        pointer=body.pointer,
    )
