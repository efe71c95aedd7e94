"""The examples of the page about httpjob are taken as they stand there."""

from __future__ import annotations

import re
import tomllib

import jsonschema
import pytest

from testkit.documents import text_of
from worker.processors.httpjob import HttpJob
from worker.processors.httpjob.spec import PRESETS, SCHEMA

PAGE = text_of("docs/httpjob.md")
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_makes_a_processor(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader may copy it."""
    for name in ("EXAMPLE_KEY", "FASHN_API_KEY"):
        monkeypatch.setenv(name, "k")
    options = tomllib.loads(example)
    jsonschema.validate(options, SCHEMA)
    assert HttpJob(**options).info.roles[0].required


def test_page_explains_every_preset_and_option() -> None:
    """And none that does not exist."""
    assert len(EXAMPLES) == 3
    assert sorted(re.findall(r"^\| `(\w+)` \| .* \| `\w+` \|$", PAGE, re.MULTILINE)) == sorted(
        each.stem for each in PRESETS.glob("*.toml")
    )
    for table in ("upload", "submit", "poll", "result", "usage"):
        for option in SCHEMA["properties"][table]["properties"]:
            assert f"`{option}`" in PAGE or f"{option} =" in PAGE or option in ("ok",), (table, option)
    for option in SCHEMA["properties"]["roles"]["additionalProperties"]["properties"]:
        assert f"`{option}`" in PAGE, option
