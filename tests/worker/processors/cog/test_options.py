"""The options of the processor `cog`."""

from __future__ import annotations

import re

import jsonschema
import pytest

from testkit.processes import ROOT
from worker.processors.cog import CogProcessor
from worker.processors.cog.options import SCHEMA, CogOptions
from worker.processors.cog.server import Model

ROLES = {
    "person": {"input": "human_img", "required": True, "max_pixels": 1_000_000, "hint": "from the front"},
    "garment": {"input": "garm_img", "count": 3, "formats": ["image/png"]},
}


def test_every_option_is_in_schema() -> None:
    """The schema knows each option, and nothing else; it is a valid schema."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["properties"]) == set(CogOptions.__dataclass_fields__)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "options",
    [{"url": "ftp://x"}, {"roles": {}}, {"roles": {"Person": {"input": "a"}}}, {"result": "first"}, {"urls": "x"}],
)
def test_malformed_options_are_refused(options: dict[str, object]) -> None:
    """A mistake in the options is found by the schema."""
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(options)


def test_page_explains_every_option() -> None:
    """Every option is a row of the page, and no row is of another one."""
    table = (ROOT / "docs" / "cog.md").read_text().partition("## Options")[2].partition("\n## ")[0]
    rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines() if row.startswith("| `")]
    assert sorted(name for row in rows for name in row) == sorted(CogOptions.__dataclass_fields__)


@pytest.mark.parametrize("pattern", ["(", "(a+)+$"])
def test_hostile_patterns_are_refused(pattern: str) -> None:
    """A pattern for errors that is malformed or could take too long stops the start."""
    with pytest.raises(ValueError):  # noqa: PT011 -- the reason is the pattern's
        CogProcessor(errors=[{"match": pattern, "code": "processor_error"}])


@pytest.mark.parametrize("url", ["http://[::1]:5000", "http://gpu.lan:5000/cog", "http://127.0.0.1:5000"])
async def test_server_may_have_any_address(url: str) -> None:
    """Each form that an address has; the token in no text of the options."""
    processor = CogProcessor(url=url, token="sk-secret")
    await processor.start()
    await processor.close()
    assert "sk-" not in repr(CogOptions(url=url, token="sk-secret"))


def test_info_follows_options() -> None:
    """Roles, outputs and limits are those of the options, in their order."""
    info = CogProcessor(roles=ROLES, outputs={"image": "result", "mask": "mask"}, result="last").info
    assert [(each.name, each.required, each.count) for each in info.roles] == [
        ("person", True, 1),
        ("garment", False, 3),
    ]
    assert info.roles[0].max_pixels == 1_000_000
    assert [each.name for each in info.outputs] == ["mask", "result"]
    assert (info.preview, info.cancel, info.generated, info.name) == (True, True, True, "cog")


def test_clients_send_no_parameters_unless_named() -> None:
    """Inputs of the model are the operator's, unless the options open them."""
    validator = jsonschema.Draft202012Validator(CogProcessor().info.params_schema)
    assert validator.is_valid({})
    assert not validator.is_valid({"steps": 10_000})


@pytest.mark.parametrize(
    ("kind", "streams", "refuses"),
    [
        ({"type": "string"}, True, True),
        ({"type": "array"}, True, True),
        ({"anyOf": []}, True, False),
        (None, True, False),
    ],
)
def test_model_streams_only_if_it_can_be_asked(kind: dict[str, object] | None, streams: bool, refuses: bool) -> None:
    """A prediction is left alone only where a question cannot start another one."""
    inputs = {} if kind is None else {"person": kind}
    model = Model.of(
        {
            "paths": {"/predictions": {"post": {"x-cog-streaming": streams}}},
            "components": {"schemas": {"Input": {"properties": inputs}}},
        },
        "person",
    )
    assert (model.streams, model.refused is not None) == (refuses, refuses)
    assert Model.of(None, "person") == Model()
