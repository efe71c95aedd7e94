"""The options, and what the processor says of itself by them."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import jsonschema
import pytest

from testkit.documents import text_of
from worker.processors.gradio.processor import GradioProcessor
from worker.processors.gradio.settings import SCHEMA, GradioOptions

FITDIT: dict[str, Any] = {
    "url": "https://someone-fitdit.hf.space",
    "calls": [
        {"name": "mask", "api": "/generate_mask", "data": ["$input.person", "$params.category", 0, 0, 0, 0]},
        {
            "name": "run",
            "api": "/process",
            "data": [
                *("$input.person", "$input.garment", "$result.mask.0", "$result.mask.1"),
                *(20, 2.0, "$seed", 1, "768x1024"),
            ],
            "weight": 9,
        },
    ],
    "outputs": {"result": "$result.run.0", "mask": "$result.mask.0"},
}


def test_schema_is_valid_and_takes_examples() -> None:
    """The worker checks the options by this schema."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.validate({})
    validator.validate(FITDIT)
    wrong: list[dict[str, Any]] = [{"urls": 1}, {"calls": []}, {"outputs": {"result": "$input.person"}}, {"url": "x"}]
    assert not any(validator.is_valid(each) for each in wrong)


def test_calls_and_outputs_have_defaults() -> None:
    """An app with a function ``tryon`` of two images needs no options."""
    options = GradioOptions()
    [call] = options.calls_in_order()
    assert (call.name, call.api, call.weight) == ("tryon", "tryon", 1.0)
    assert options.named_outputs() == {"result": "$result.tryon.0"}


def test_info_names_host_and_outputs() -> None:
    """It says where the photo goes, and that a lost run begins anew."""
    info = GradioProcessor(**FITDIT).info
    assert [role.name for role in info.roles] == ["person", "garment"]
    assert [output.name for output in info.outputs] == ["result", "mask"]
    assert "someone-fitdit.hf.space" in info.privacy
    assert "begins anew" in info.label
    assert info.cancel
    assert info.generated
    assert not info.preview


def test_token_is_in_no_text() -> None:
    """Options and processor may be logged."""
    processor = GradioProcessor(url="https://example.com", token="hf_secret")
    assert "hf_secret" not in f"{processor!r} {GradioOptions(token='hf_secret')!r} {processor.info!r}"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://someone-fitdit.hf.space", "X-HF-Authorization"),
        ("https://hf.space.example.com", "Authorization"),
        ("http://127.0.0.1:7860", "Authorization"),
    ],
)
def test_token_does_not_reach_code_of_space(url: str, name: str) -> None:
    """A space is a stranger's program; Hugging Face takes the header away before it."""
    assert GradioOptions(url=url, token="hf_secret").headers() == {name: "Bearer hf_secret"}
    assert GradioOptions(url=url).headers() == {}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"calls": [{"api": "/a", "data": ["$input.mask"]}]}, "'mask' is no role"),
        ({"calls": [{"api": "/a", "data": ["$input"]}]}, "is no reference"),
        ({"calls": [{"api": "/a", "data": ["$result.a.0"]}]}, "no earlier call"),
        ({"calls": [{"api": "/a", "data": []}, {"api": "a", "data": []}]}, "two calls have the name 'a'"),
        ({"outputs": {"result": "$result.b.0"}}, "no earlier call"),
        ({"outputs": {"result": "$seed"}}, "is no result of a call"),
        ({"errors": [{"match": "(", "code": "timeout"}]}, "is no regular expression"),
        ({"errors": [{"match": "(a+)+$", "code": "timeout"}]}, "a+"),
    ],
)
def test_options_that_lead_nowhere_are_refused(options: dict[str, Any], line: str) -> None:
    """A mistake in a template stops the worker's start, not the first session."""
    with pytest.raises(ValueError, match=line):
        GradioOptions(**options)


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", text_of("docs/gradio.md"), re.DOTALL))
def test_examples_of_page_are_valid(example: str) -> None:
    """The page's options pass the schema, and make a processor."""
    options = tomllib.loads(example)
    jsonschema.Draft202012Validator(SCHEMA).validate(options)
    assert GradioProcessor(**options).info.params_schema["type"] == "object"


def test_page_explains_every_option() -> None:
    """With no option that does not exist."""
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| [^|]+ \| [^|]+ \|$", text_of("docs/gradio.md"), re.MULTILINE)
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert explained == set(SCHEMA["properties"])
