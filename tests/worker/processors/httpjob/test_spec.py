"""What a TOML file may say, and the presets."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import jsonschema
import pytest

from tryon.processor import Role
from worker.processors.httpjob import HttpJob
from worker.processors.httpjob.spec import PRESETS, SCHEMA, merged, preset, read
from worker.processors.httpjob.templates import names_in

NAMES = sorted(each.stem for each in PRESETS.glob("*.toml"))

FIVE_LINES = """\
url = "http://127.0.0.1:5000"
submit.path = "/try-on"
submit.json.person = "{person}"
submit.json.garment = "{garment}"
result.files = "image"
"""


def test_five_lines_are_enough_for_a_model() -> None:
    """What they leave out has a sensible value."""
    options = tomllib.loads(FIVE_LINES)
    assert len(FIVE_LINES.splitlines()) == 5
    jsonschema.validate(options, SCHEMA)
    info = HttpJob(**options).info
    assert info.name == "httpjob"
    assert info.roles == (Role(name="person", required=True), Role(name="garment"))
    assert info.privacy == "The photo is sent to 127.0.0.1:5000."
    assert (info.generated, info.cancel) == (True, False)


def test_presets_are_those_of_the_documentation() -> None:
    """One for each host."""
    assert NAMES == ["bfl", "fal", "fashn", "pruna", "replicate"]


@pytest.mark.parametrize("name", NAMES)
def test_preset_is_complete(name: str) -> None:
    """It needs a key and nothing else, and its schema of parameters is one."""
    jsonschema.validate({"preset": name, "key": "k"} | preset(name), SCHEMA)
    processor = HttpJob(preset=name, key="sk-secret")
    info = processor.info
    assert info.name == f"httpjob-{name}"
    assert [role.name for role in info.roles if role.required] == ["person", "garment"]
    jsonschema.Draft202012Validator.check_schema(info.params_schema)
    assert info.generated
    assert info.concurrency > 1
    assert info.label
    assert info.privacy.startswith("The photo is sent to")
    assert "sk-secret" not in repr(processor)
    assert "sk-secret" not in repr(read({"preset": name, "key": "sk-secret"}))
    with pytest.raises(ValueError, match="key is missing"):
        HttpJob(preset=name)


@pytest.mark.parametrize("name", NAMES)
def test_preset_says_where_its_numbers_come_from(name: str) -> None:
    """A page and a date, or that the number is ours; and that nothing was run."""
    text = (PRESETS / f"{name}.toml").read_text()
    assert "Not run against the host" in text
    assert "as read on 2026-11-26" in text
    numbers = re.findall(r"^(?:send_\w+|typical_seconds|concurrency|count|every) = .*$", text, re.MULTILINE)
    assert numbers
    assert [each for each in numbers if not each.endswith(("# ours", "# above"))] == []


@pytest.mark.parametrize("name", NAMES)
def test_preset_names_only_what_a_job_has(name: str) -> None:
    """A misspelt name would leave a field out, in silence."""
    spec = read({"preset": name, "key": "k"})
    known = {"seed", "session", "job", *(f"vars.{each}" for each in spec.variables), *spec.submit.keep}
    known |= {form for role in spec.pictures for form in (role, f"{role}[]")}
    known |= {f"params.{each}" for each in spec.info.params_schema.get("properties", {})}
    calls = [spec.submit, spec.poll, spec.result.fetch, spec.cancel, spec.forget]
    for call in calls:
        if call is not None:
            assert set(names_in([call.path, call.json, dict(call.headers)])) <= known


def test_options_win_over_their_preset() -> None:
    """Table by table: another model needs one line."""
    spec = read({"preset": "fal", "key": "k", "vars": {"model": "a/b"}, "poll": {"every": 3.0}})
    assert spec.variables == {"model": "a/b"}
    assert spec.poll is not None
    assert (spec.poll.every, spec.poll.done) == (3.0, ("COMPLETED",))
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2]}) == {"a": {"b": 1, "c": 3}, "d": [2]}


def test_key_comes_from_the_environment_that_the_options_name() -> None:
    """So that a file of options can be shared."""
    assert read({"preset": "fal", "key_env": "FAL_KEY"}, {"FAL_KEY": "k"}).key == "k"
    with pytest.raises(ValueError, match="there is no environment variable FAL_KEY"):
        read({"preset": "fal", "key_env": "FAL_KEY"}, {})


GOOD: dict[str, Any] = {"url": "https://a.example", "submit": {"path": "/x"}}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "url is missing"),
        ({"url": "https://a.example"}, "submit is missing"),
        ({"preset": "nothing"}, "there is no preset 'nothing'; there are bfl"),
        (GOOD | {"pol": {}}, "there is no option 'pol'"),
        (GOOD | {"poll": {"path": "/x", "evry": 1}}, "there is no option poll.evry"),
        (GOOD | {"poll": {"every": 1}}, "poll: missing 1 required keyword-only argument: 'path'"),
        (GOOD | {"url": "ftp://a.example"}, "URL of the upstream"),
        (GOOD | {"hosts": ["https://*.com"]}, "last two"),
        (GOOD | {"submit": {"path": "/x?key={key}"}, "key": "k"}, "may stand in headers only"),
        (GOOD | {"submit": {"path": "/x", "json": {"k": ["{key}"]}}, "key": "k"}, "may stand in headers only"),
        (GOOD | {"poll": {"path": "/x/{id}"}}, "{id} is neither in submit.keep nor in submit.chosen"),
        (GOOD | {"poll": {"path": "/x/{session}"}}, "{session} is neither in submit.keep nor in submit.chosen"),
        (GOOD | {"submit": {"path": "/x", "chosen": {"id": "{params.id}"}}}, "{params.id} may have no value"),
        (
            GOOD
            | {"submit": {"path": "/x", "keep": {"next": "url"}}, "key": "k"}
            | {"poll": {"path": "{next}", "headers": {"Authorization": "{key}"}}},
            "{next} may lead to any of hosts",
        ),
        (GOOD | {"cancel": {"path": "/x"}}, "cancel and forget need a name"),
        (GOOD | {"roles": {"person": {"send": "url"}}}, "there is no upload"),
        (GOOD | {"upload": {"path": "/x", "url": "u", "forget": {"path": "/x/{id}"}}}, "{id} is not in upload.keep"),
        (
            GOOD
            | {"upload": {"path": "/x", "url": "u"}, "forget": {"path": "/x"}, "roles": {"person": {"send": "url"}}},
            "forget needs upload.forget",
        ),
        (GOOD | {"poll": {"path": "/x", "headers": {"X-Id": "{id}"}}}, "{id} is neither in submit.keep"),
        (GOOD | {"roles": {"person": {"send": "carrier"}}}, "not one of data_url, base64, url"),
    ],
)
def test_mistake_in_the_options_is_one_line_at_the_start(options: dict[str, Any], words: str) -> None:
    """It names what is wrong, and no value that may be secret."""
    with pytest.raises(ValueError, match=r".") as failed:
        HttpJob(**options)
    assert words in str(failed.value)
    assert "\n" not in str(failed.value)


UPLOAD = {"path": "/files", "url": "url", "keep": {"file": "id"}}
WITH_ID: dict[str, Any] = {"url": "https://a.example", "submit": {"path": "/x", "keep": {"id": "id"}}}


@pytest.mark.parametrize(
    "options",
    [
        WITH_ID | {"upload": UPLOAD, "forget": {"path": "/x/{id}"}},
        WITH_ID | {"upload": UPLOAD | {"forget": {"path": "/{file}"}}, "forget": {"path": "/x/{id}"}},
        WITH_ID | {"upload": UPLOAD, "roles": {"person": {"send": "url"}}},
        GOOD
        | {"key": "k", "vars": {"poll": "https://b.example/x"}}
        | {"poll": {"path": "{vars.poll}", "headers": {"Authorization": "{key}"}}},
        {"preset": "pruna", "key": "k", "roles": {"person": {"send": "data_url"}, "garment": {"send": "data_url"}}}
        | {"forget": {"method": "DELETE", "path": "/predictions/{id}"}},
        {"preset": "fal", "key": "k", "hosts": ["https://*.fal.media", "https://api.fal.ai"]}
        | {"header_hosts": ["https://api.fal.ai"]}
        | {"forget": {"method": "DELETE", "path": "https://api.fal.ai/v1/models/requests/{id}/payloads"}},
        {"preset": "bfl", "key": "k", "url": "https://api.eu.bfl.ai/v1"},
    ],
    ids=["upload-unused", "both-forget", "neither-forgets", "path-of-vars", "pruna-inline", "fal-forgets", "bfl-eu"],
)
def test_legitimate_options_are_taken(options: dict[str, Any]) -> None:
    """Among them what the presets' comments offer."""
    jsonschema.validate(options, SCHEMA)
    assert HttpJob(**options).info.name


def test_schema_of_the_options_is_a_schema() -> None:
    """The worker checks the options by it; it survives a trip through JSON."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    mistakes: list[dict[str, Any]] = [{"concurrency": 0}, {"poll": {"every": "1"}}, {"errors": [{}]}, {"url": 1}]
    for wrong in mistakes:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)
