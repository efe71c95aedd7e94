"""What a call is given, by references."""

from __future__ import annotations

from typing import Any

import pytest

from worker.processors.gradio.templates import Values, files_in, filled, parsed, references, roles_of

PERSON, SHIRT, COAT = {"path": "/tmp/p.png"}, {"path": "/tmp/s.png"}, {"path": "/tmp/c.png"}
VALUES = Values(
    files={"person": [PERSON], "garment": [SHIRT, COAT]},
    params={"steps": 20},
    seed=7,
    results={"mask": [{"background": PERSON, "layers": [SHIRT]}, "text"]},
)


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("$input.person", PERSON),
        ("$input.garment.1", COAT),
        ("$input.garment.2", None),
        ("$input.mask", None),
        ("$inputs.garment", [SHIRT, COAT]),
        ("$gallery.garment", [{"image": SHIRT, "caption": None}, {"image": COAT, "caption": None}]),
        ("$params.steps", 20),
        ("$params.unknown", None),
        ("$seed", 7),
        ("$null", None),
        ("$result.mask.1", "text"),
        ("$result.mask.0.layers.0", SHIRT),
        ("$$5", "$5"),
        ("plain $seed", "plain $seed"),
        (
            {"background": "$input.person", "layers": [], "composite": "$null"},
            {"background": PERSON, "layers": [], "composite": None},
        ),
        ([True, 2.0, ["$seed"]], [True, 2.0, [7]]),
    ],
)
def test_template_is_filled_with_values(template: Any, value: Any) -> None:
    """A reference at any depth stands for its value, other JSON for itself."""
    assert filled(template, VALUES) == value


@pytest.mark.parametrize("text", ["$", "$inputs", "$input.", "$params", "$result.mask", "$seeds", "$input.a b"])
def test_malformed_reference_is_refused(text: str) -> None:
    """A text that begins with $ and is no reference is a mistake of the options."""
    with pytest.raises(ValueError, match="is no reference"):
        parsed(text)


@pytest.mark.parametrize("reference", ["$result.mask.2", "$result.mask.1.x", "$result.mask.0.composite"])
def test_result_that_is_missing_is_refused(reference: str) -> None:
    """A reference that leads nowhere in what the app returned says so."""
    with pytest.raises(ValueError, match="returned nothing as"):
        filled(reference, VALUES)


def test_references_are_found_at_any_depth() -> None:
    """Roles that no call uses are not uploaded, so all uses must be found."""
    template = [{"background": "$input.person", "layers": ["$inputs.mask"]}, "$gallery.garment", "$$x", 1]
    assert list(references(template)) == ["$input.person", "$inputs.mask", "$gallery.garment"]
    assert roles_of(template) == {"person", "mask", "garment"}


@pytest.mark.parametrize(
    ("value", "files"),
    [
        (PERSON, [PERSON]),
        ([{"image": SHIRT, "caption": None}, {"image": COAT, "caption": "x"}], [SHIRT, COAT]),
        ({"background": PERSON, "layers": [SHIRT], "composite": COAT}, [COAT]),
        ({"background": PERSON, "layers": [SHIRT], "composite": None}, [PERSON]),
        ({"video": SHIRT, "subtitles": None}, [SHIRT]),
        ([None, "text", 3], []),
    ],
)
def test_files_are_found_in_returned_values(value: Any, files: list[Any]) -> None:
    """Images, galleries, editors and videos hold their files in different places."""
    assert files_in(value) == files
