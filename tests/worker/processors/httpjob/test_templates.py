"""Templates for requests, and paths into answers."""

from __future__ import annotations

import pytest

from worker.processors.httpjob.templates import Missing, find, first, names_in, render, render_path, render_text

VALUES = {
    "person": "data:p",
    "garment[]": ["data:1", "data:2"],
    "seed": 7,
    "params.turbo": False,
    "id": "a/../b?x",
    "vars.model": "owner/name",
    "url": "https://a.example/x?y=1",
    "up": "..",
    "none": None,
}


def test_whole_name_keeps_its_type() -> None:
    """A list stays a list, a number a number, in objects and lists alike."""
    template = {"image": "{person}", "garments": "{garment[]}", "options": [{"seed": "{seed}"}, "{params.turbo}", 3]}
    assert render(template, VALUES) == {
        "image": "data:p",
        "garments": ["data:1", "data:2"],
        "options": [{"seed": 7}, False, 3],
    }


def test_name_inside_a_text_becomes_text() -> None:
    """Double braces are braces."""
    assert render_text('{{"seed": {seed}, "turbo": {params.turbo}}} of {vars.model}', VALUES) == (
        '{"seed": 7, "turbo": false} of owner/name'
    )


def test_what_has_no_value_is_left_out() -> None:
    """An input that was not sent leaves no null behind."""
    assert render({"a": "{mask}", "b": ["{none}", "x {mask}", "{seed}"], "c": {"d": "{mask}"}}, VALUES) == {
        "b": [7],
        "c": {},
    }
    with pytest.raises(Missing):
        render("{mask}", VALUES)


def test_value_in_a_path_cannot_lead_elsewhere() -> None:
    """An id is quoted; a whole URL of an answer is taken as it is, and judged later."""
    assert render_path("/jobs/{id}/status", VALUES) == "/jobs/a%2F..%2Fb%3Fx/status"
    assert render_path("/models/{vars.model}/run", VALUES) == "/models/owner/name/run"
    assert render_path("{url}", VALUES) == "https://a.example/x?y=1"
    with pytest.raises(Missing):
        render_path("/jobs/{up}/delete", VALUES)


def test_names_are_found_wherever_they_stand() -> None:
    """So that a name which nothing fills is an error at the start."""
    assert set(names_in({"a": ["{x} {y[]}", {"b": "{{no}} {z.w}"}], "c": 1})) == {"x", "y[]", "z.w"}


ANSWER = {
    "images": [{"url": "1"}, {"url": "2"}, {"other": 3}],
    "output": ["a", None, "b"],
    "error": {"name": "E"},
    "data": [["x"], ["y"]],
    "zero": 0,
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("images.*.url", ["1", "2"]),
        ("images.1.url", ["2"]),
        ("output", ["a", "b"]),
        ("error.name", ["E"]),
        ("data.1", ["y"]),
        ("zero", [0]),
        *((path, []) for path in ("images.9.url", "images.url", "error.0", "error.name.x", "nothing", "images.-1")),
    ],
)
def test_path_leads_to_what_is_there(path: str, found: list[object]) -> None:
    """What is not there is no error: the caller says what it means."""
    assert find(ANSWER, path) == found
    assert first(ANSWER, path) == (found[0] if found else None)


def test_empty_path_is_the_answer_itself() -> None:
    """Some hosts answer with a bare string."""
    assert find("https://a.example/x.png", "") == ["https://a.example/x.png"]
    assert first({"a": 1}, None) is None
