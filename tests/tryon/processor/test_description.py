"""The description of a processor that workers publish."""

from __future__ import annotations

import msgspec
import pytest

from tryon.processor import Info, OutputRole, Role
from tryon.processor.description import BadInfo, describe
from tryon.protocol.processors import ProcessorView


def test_description_says_what_the_info_says() -> None:
    """Every field that clients read comes from the info, and survives JSON."""
    info = Info(
        name="fit",
        version="1.2",
        label="A model",
        roles=(
            Role(name="person", required=True, formats=("image/jpeg",), max_bytes=5, max_pixels=6, hint="You"),
            Role(name="garment", count=3),
        ),
        outputs=(OutputRole(name="result", types=("image/png", "video/mp4"), count=2),),
        params_schema={"type": "object", "properties": {"steps": {"default": 3}}},
        generated=True,
        privacy="It goes to example.com for an hour.",
        typical_seconds=12.5,
        cancel=True,
        preview=True,
    )
    view = describe(info)
    assert (view.name, view.version, view.label, view.privacy) == (info.name, info.version, info.label, info.privacy)
    assert (view.generated, view.typical_seconds, view.cancel, view.preview) == (True, 12.5, True, True)
    person, garment = view.roles
    assert (person.required, person.formats, person.max_bytes, person.max_pixels, person.hint) == (
        True, ["image/jpeg"], 5, 6, "You",
    )  # fmt: skip
    assert (garment.required, garment.count, garment.formats, garment.max_bytes) == (False, 3, [], None)
    assert [(each.name, each.types, each.count) for each in view.outputs] == [("result", ["image/png", "video/mp4"], 2)]
    assert msgspec.json.decode(msgspec.json.encode(view), type=ProcessorView) == view


@pytest.mark.parametrize(
    "info",
    [
        Info(name="x", roles=(Role(name="image"),)),
        Info(name="x", roles=(Role(name="params"),)),
        Info(name="x", roles=(Role(name="person", formats=("image/gif",)),)),
        Info(name="x", roles=(Role(name="person", max_bytes=0),)),
        Info(name="x", roles=(Role(name="person", count=13),)),
        Info(name="x", params_schema={"properties": {"x": {"pattern": "^(a+)+$"}}}),
    ],
)
def test_description_is_refused_when_uploads_cannot_be_judged_by_it(info: Info) -> None:
    """Names that uploads use for something else, unknown formats, costly schemas."""
    with pytest.raises(BadInfo):
        describe(info)
