"""Fetches a JSON document of an issuer: bounded in time and size, and no redirect."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from server.config.issuers import parse_key_url

if TYPE_CHECKING:
    import httpx

FETCH_SECONDS: Final = 5.0
"""Time for one document, from the name's resolution to the last byte."""

MAX_BYTES: Final = 256 * 1024
"""Maximum size of a document: keys of RSA take about 1 KB each."""


class NotFetched(Exception):
    """A document that was not had; the text says why, and quotes nothing of it."""


class JsonFetcher:
    """Reads JSON by GET. State: one client, made for the first document.

    ``seconds``: for one document.
    """

    def __init__(self, *, seconds: float = FETCH_SECONDS) -> None:
        self._seconds = seconds
        self._client: httpx.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"<JsonFetcher {'open' if self._client else 'unused'}>"

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def fetch(self, url: str) -> object:
        """Return the document at an address. Raises :class:`NotFetched`."""
        import httpx

        try:
            parse_key_url(url)
        except ValueError as error:
            raise NotFetched(f"the address {error}") from None
        if self._client is None:
            # Neither a proxy nor a .netrc: the environment's are for other requests.
            self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=self._seconds)
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._body(self._client, url)
        except TimeoutError:
            raise NotFetched("no answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise NotFetched(f"the connection failed: {type(error).__name__}") from None
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise NotFetched("the answer is not JSON") from None

    async def _body(self, client: httpx.AsyncClient, url: str) -> bytes:
        # Not compressed: a small answer could become a large one.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "tryon-push"}
        body = bytearray()
        async with client.stream("GET", url, headers=headers) as answer:
            if answer.status_code != 200:
                raise NotFetched(f"answered {answer.status_code}")
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > MAX_BYTES:
                    raise NotFetched(f"the answer has more than {MAX_BYTES} bytes")
        return bytes(body)
