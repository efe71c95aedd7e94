"""docs/quotas.md: its plans are those of a server, its answers are what one sends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from server.config import plans
from server.config.parsing import UploadRate
from server.config.settings import Config
from testkit.documents import text_of
from testkit.issuers import issuing
from testkit.running import running_web
from testkit.uploads import upload
from tryon.protocol.errors import QUOTAS
from tryon.protocol.paths import QUOTA

PAGE: Final = text_of("docs/quotas.md")


def block(language: str) -> str:
    """Return the page's one block of a language."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(text)


async def test_plans_of_page_limit_an_upload(config: Callable[..., Config], tmp_path: Path) -> None:
    """A refusal has the fields and headers of the page; so has what is left."""
    file = tmp_path / "plans.toml"
    file.write_text(block("toml"))
    settings = {"quotas": plans.plans(str(file)), "upload_rate": UploadRate(10, 60)}
    async with issuing() as issuer, running_web(config(**issuer.settings, **settings)) as web:
        ann = {"Authorization": f"Bearer {issuer.token(scope='tryon:basic')}"}
        left = (await web.client.get(QUOTA, headers=ann)).json()
        assert (await upload(web)).status_code == 201
        refused = await upload(web)
    shown = json.loads(block("json"))
    assert {name: (set(value) if isinstance(value, dict) else None) for name, value in left.items()} == {
        name: (set(value) if isinstance(value, dict) else None) for name, value in shown.items()
    }
    assert (left["plan"], left["stored_bytes"]["limit"]) == (shown["plan"], shown["stored_bytes"]["limit"])
    head, body = block("http").split("\n\n")
    problem = json.loads(body)
    assert set(refused.json()) == set(problem)
    assert (refused.status_code, refused.json()["code"]) == (429, problem["code"])
    assert (refused.json()["limit"], problem["detail"]) == ("concurrent_sessions", QUOTAS["uploads_per_day"])
    assert {line.partition(":")[0].lower() for line in head.splitlines()[1:]} <= set(refused.headers)


def test_fields_of_page_are_those_of_a_plan() -> None:
    """Each field has a row, and no other has."""
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert rows == [name for name in plans.PlanSetting.__dataclass_fields__ if name != "name"]
