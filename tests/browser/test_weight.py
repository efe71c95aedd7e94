"""The page's way over the wire: what is sent, and what is not sent again."""

from __future__ import annotations

from typing import Any, Final

import pytest
from playwright.async_api import Browser

from testkit.stack import Stack

pytestmark = pytest.mark.xdist_group("chromium")

LOADED: Final = """
() => performance.getEntriesByType("resource").filter(({ name }) => new URL(name).pathname.startsWith("/static/"))
  .map(({ name, transferSize }) => ({ name: new URL(name).pathname, transferSize }))
"""


async def loaded(page: Any, url: str) -> dict[str, int]:
    """Open the page; return the bytes on the wire of each static file, by its path."""
    await page.goto(url, wait_until="networkidle")
    return {each["name"]: each["transferSize"] for each in await page.evaluate(LOADED)}


@pytest.mark.slow
async def test_second_visit_loads_no_file_again(chromium: Browser, product: Stack) -> None:
    """Each script comes once, under a name that lasts, also where modules import it."""
    context = await chromium.new_context()
    try:
        page = await context.new_page()
        trouble: list[str] = []
        page.on("console", lambda line: trouble.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        first = await loaded(page, product.url)
        scripts = [name for name in first if name.endswith(".js")]
        assert len(scripts) > 5 and all(name.count(".") == 2 for name in scripts), scripts
        assert trouble == []
        second = await loaded(await context.new_page(), product.url)
        assert set(second) == set(first)
        assert {name: size for name, size in second.items() if size > 300} == {}, (
            "a picture of a sample is asked for: 304"
        )
    finally:
        await context.close()
