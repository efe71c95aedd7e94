"""docs/users.md: its issuer is accepted, its owner's ids are the server's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from server.config.settings import Config
from testkit.documents import text_of
from testkit.issuers import issuing
from testkit.running import running_web
from testkit.uploads import upload

PAGE: Final = text_of("docs/users.md")
OWNER_KEY: Final = "owner-key-owner-key-owner-key-owner-key"


def example(name: str) -> dict[str, Any]:
    """Run an example of the page; return its names."""
    (code,) = re.findall(rf"<!-- python: {name} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


async def test_example_issuer_is_accepted_and_owner_is_computed(config: Callable[..., Config]) -> None:
    """A server with the page's settings takes its tokens, and has its owner's ids."""
    made, ids = example("issuer"), example("owner")
    async with issuing() as issuer:
        issuer.documents = {"/.well-known/jwks.json": made["key_set"]()}
        async with running_web(config(**issuer.settings, owner_key=OWNER_KEY)) as web:
            answer = await upload(web, made["token_of"]("ann", issuer.url))
            assert answer.status_code == 201, answer.text
            session = await web.services.database.reader.get(answer.json()["session_id"])
        assert session is not None
        assert session.owner == ids["owner_id"](OWNER_KEY, issuer.url, "ann")
