"""One HTTP call to the API: adds credentials, repeats, raises :class:`Problem`."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar
from urllib.parse import urlencode

import msgspec

from tryon.client.network import Answer, Network, NoAnswer, whole_answer
from tryon.client.problems import Problem, problem_of
from tryon.client.tokens import Tokens, TokenSource
from tryon.protocol.backoff import FIRST_SECONDS, doubled
from tryon.protocol.paths import SESSIONS

MOST_PAUSE_SECONDS: Final = 5.0
"""Longest ``Retry-After`` that a call waits for by itself; a longer one is raised."""

_PASSING: Final = frozenset({"network", "unavailable", "internal_error", "idempotency_in_flight"})
"""Codes of problems after which the same call is repeated; so is any with a short
``Retry-After``.
"""

_GATEWAY: Final = frozenset({502, 503, 504})
"""Statuses of proxies whose server is unavailable; they come without a code."""

_UNSURE: Final = frozenset({"network", "unknown"})
"""Codes of problems after which the call may have been carried out."""

SLOWEST_BYTES_PER_SECOND: Final = 65_536
"""Slowest upload that is waited for: 0.5 Mbit/s."""

T = TypeVar("T")


def random_text() -> str:
    """Return 256 random bits as URL-safe text: a token, or an idempotency key."""
    return secrets.token_urlsafe(32)


class Calls:
    """The calls of one owner.

    ``attempts``: at most, while there is no answer or a refusal that passes soon;
    ``seconds``: for each. A call may be repeated although it was carried out: uploads
    carry an Idempotency-Key. Only the answer to DELETE exists once.
    """

    __slots__ = ("_attempts", "_chance", "_network", "_seconds", "tokens")

    def __init__(
        self, network: Network, token: TokenSource, *, attempts: int, seconds: float, chance: random.Random
    ) -> None:
        self.tokens = Tokens(token)
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
        """Return the answer below ``/api/tryon/sessions``.

        A refused token is renewed once, if it comes from a function. Raises Problem.
        """
        token = await self.tokens.current()
        try:
            return await self._authorized(token, answers, method, path, query, headers, body)
        except Problem as problem:
            if problem.code != "invalid_token" or not await self.tokens.renew(token):
                raise
        return await self._authorized(self.tokens.last, answers, method, path, query, headers, body)

    async def _authorized(
        self,
        token: str,
        answers: type[T],
        method: str,
        path: str,
        query: Mapping[str, str | int | None] | None,
        headers: Mapping[str, str] | None,
        body: bytes,
    ) -> T:
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        whole = SESSIONS + path + (f"?{urlencode(asked)}" if asked else "")
        sent = {"Authorization": f"Bearer {token}", **(headers or {})}
        seconds = self._seconds + len(body) / SLOWEST_BYTES_PER_SECOND
        answer = await self._repeated(
            method, lambda: self._network.request(method, whole, headers=sent, body=body, seconds=seconds)
        )
        return _decoded(answer, answers)

    async def public(self, answers: type[T], path: str) -> T:
        """Return an answer that needs no token. Raises Problem."""
        answer = await self._repeated(
            "GET", lambda: self._network.request("GET", path, headers={}, body=b"", seconds=self._seconds)
        )
        return _decoded(answer, answers)

    async def file(self, path: str) -> bytes:
        """Return the content behind a signed link, or behind the one it leads to.

        Raises Problem.
        """

        async def download() -> Answer:
            answer = await self._whole(path)
            bucket = answer.headers.get("location", "") if answer.status == 302 else ""
            return await self._whole(bucket) if bucket.startswith(("http://", "https://")) else answer

        return (await self._repeated("GET", download)).body

    async def _whole(self, path: str) -> Answer:
        """Return what is behind a link; it carries no token, also not to a bucket."""
        async with self._network.stream("GET", path, headers={"Accept": "*/*"}, seconds=self._seconds) as stream:
            return await whole_answer(stream, self._seconds)

    async def _repeated(self, method: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        for attempt in range(1, self._attempts + 1):
            problem = await self._once(call)
            if isinstance(problem, Answer):
                return problem
            once_only = method == "DELETE" and problem.code in _UNSURE
            pause = None if once_only else self._pause(problem, attempt)
            if pause is None or attempt == self._attempts:
                raise problem
            await asyncio.sleep(pause)
        raise AssertionError("there is at least one attempt")

    async def _once(self, call: Callable[[], Awaitable[Answer]]) -> Answer | Problem:
        try:
            answer = await call()
        except NoAnswer as error:
            return Problem("network", f"No answer: {error}", retryable=True)
        return answer if 200 <= answer.status < 300 else problem_of(answer)

    def _pause(self, problem: Problem, attempt: int) -> float | None:
        """Return the seconds until a repeat, None if it would not help."""
        if problem.retryable and problem.retry_after is not None:
            return problem.retry_after if problem.retry_after <= MOST_PAUSE_SECONDS else None
        if problem.code not in _PASSING and not (problem.retryable and problem.status in _GATEWAY):
            return None
        return self._chance.uniform(0.0, doubled(FIRST_SECONDS, MOST_PAUSE_SECONDS, attempt))


def _decoded(answer: Answer, answers: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=answers)
    except msgspec.MsgspecError as error:
        raise Problem("unknown", f"The answer is unreadable: {error}", status=answer.status) from None
