"""One HTTP call to the API: adds credentials, repeats, raises :class:`Problem`."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Mapping
from typing import Final, TypeVar
from urllib.parse import urlencode

import msgspec

from tryon.client.network import Answer, Network, NoAnswer
from tryon.client.problems import Problem, problem_of
from tryon.protocol.backoff import FIRST_SECONDS
from tryon.protocol.paths import SESSIONS

MOST_PAUSE_SECONDS: Final = 5.0
"""Longest ``Retry-After`` that a call waits for by itself; a longer one is raised."""

_PASSING: Final = frozenset({"network", "unavailable", "internal_error", "idempotency_in_flight"})
"""Codes of problems after which the same call is repeated; so is any with a short
``Retry-After``.
"""

T = TypeVar("T")


def random_text() -> str:
    """Return 256 random bits as URL-safe text: a token, or an idempotency key."""
    return secrets.token_urlsafe(32)


class Calls:
    """The calls of one owner.

    ``attempts``: at most, while there is no answer or a refusal that passes soon;
    ``seconds``: for each. Every call may be repeated: uploads carry an Idempotency-Key.
    """

    __slots__ = ("_attempts", "_chance", "_network", "_seconds", "token")

    def __init__(self, network: Network, token: str, *, attempts: int, seconds: float, chance: random.Random) -> None:
        self.token = token
        self._network = network
        self._attempts = attempts
        self._seconds = seconds
        self._chance = chance

    def __repr__(self) -> str:
        return f"<Calls to {self._network!r}>"

    async def session(
        self,
        answers: type[T],
        method: str,
        path: str = "",
        *,
        query: Mapping[str, str | int | None] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> T:
        """Return the answer below ``/api/tryon/sessions``. Raises Problem."""
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        whole = SESSIONS + path + (f"?{urlencode(asked)}" if asked else "")
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        answer = await self._repeated(method, whole, sent, body)
        try:
            return msgspec.json.decode(answer.body, type=answers)
        except msgspec.MsgspecError as error:
            raise Problem("unknown", f"The answer is unreadable: {error}", status=answer.status) from None

    async def file(self, path: str) -> bytes:
        """Return the content behind a signed link. Raises Problem."""
        return (await self._repeated("GET", path, {"Accept": "*/*"}, b"")).body

    async def _repeated(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        for attempt in range(1, self._attempts + 1):
            problem = await self._once(method, path, headers, body)
            if isinstance(problem, Answer):
                return problem
            pause = self._pause(problem, attempt)
            if pause is None or attempt == self._attempts:
                raise problem
            await asyncio.sleep(pause)
        raise AssertionError("there is at least one attempt")

    async def _once(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer | Problem:
        try:
            answer = await self._network.request(method, path, headers=headers, body=body, seconds=self._seconds)
        except NoAnswer as error:
            return Problem("network", f"No answer: {error}", retryable=True)
        return answer if 200 <= answer.status < 300 else problem_of(answer)

    def _pause(self, problem: Problem, attempt: int) -> float | None:
        """Return the seconds until a repeat, None if it would not help."""
        if problem.retryable and problem.retry_after is not None:
            return problem.retry_after if problem.retry_after <= MOST_PAUSE_SECONDS else None
        if problem.code not in _PASSING:
            return None
        return self._chance.uniform(0.0, min(MOST_PAUSE_SECONDS, FIRST_SECONDS * 2**attempt))
