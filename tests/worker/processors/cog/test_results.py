"""Files out of the output of a prediction."""

from __future__ import annotations

import base64
import json

import pytest

from testkit.uploads import picture
from tryon.processor.validation import checkpoint_text
from worker.processors.cog.results import MAX_FILES, File, decode, files_of, links_of, type_of

URL = "data:image/png;base64," + base64.b64encode(picture()).decode()
LINK = "https://cog.example/outputs/1.png"


@pytest.mark.parametrize(
    ("output", "roles", "files"),
    [
        (URL, {}, [File("result", URL)]),
        ([URL, LINK], {}, [File("result", URL), File("result", LINK)]),
        ({"image": URL, "text": "words", "n": 3}, {}, [File("result", URL)]),
        ({"image": URL, "mask": LINK}, {"mask": "mask"}, [File("mask", LINK)]),
        ({"a": [URL, URL], "b": None}, {"b": "other", "a": "result"}, [File("result", URL)] * 2),
        ([{"image": URL}], {"image": "result"}, [File("result", URL)]),
    ],
)
def test_files_have_order_and_roles(output: object, roles: dict[str, str], files: list[File]) -> None:
    """Files are found in texts, lists and objects; what is no file is left out."""
    assert files_of(output, roles) == files


@pytest.mark.parametrize("output", [None, "words", [], {}, 3, {"image": "words"}, [URL] * (MAX_FILES + 1)])
def test_output_without_usable_files_is_refused(output: object) -> None:
    """No file, or far too many, is an error."""
    with pytest.raises(ValueError, match="files"):
        files_of(output, {})


@pytest.mark.parametrize("letter", ["x", "é", "😀"])
def test_links_are_kept_as_far_as_a_checkpoint_holds_them(letter: str) -> None:
    """Bytes of JSON are counted, of which a letter takes up to twelve."""
    assert links_of([File("result", LINK), File("mask", LINK)]) == [["result", LINK], ["mask", LINK]]
    assert links_of([File("result", LINK), File("mask", URL)]) == []
    size = len(json.dumps(letter)) - 2
    for length, fits in ((8000, True), (8192, False)):
        links = links_of([File("result", LINK + letter * (length // size))])
        assert bool(links) is fits
        checkpoint_text({"links": links})


def test_content_decides_type() -> None:
    """The type is read from the first bytes, whatever the data URL says of itself."""
    assert type_of(decode(URL)) == "image/png"
    assert type_of(decode("data:image/png;base64," + base64.b64encode(picture(kind="JPEG")).decode())) == "image/jpeg"
    assert type_of(b"RIFF\n\n\n\nWEBPVP8 ") == "image/webp"
    assert type_of(b"\0\0\0\x20ftypisom") == "video/mp4"
    assert type_of(b"\x1aE\xdf\xa3\x01") == "video/webm"
    for data in (b"", b"<svg>", b"GIF89a"):
        with pytest.raises(ValueError, match="no picture"):
            type_of(data)


@pytest.mark.parametrize("text", ["data:image/png;base64,%%%", "data:image/png;base64,YQ", "data:;base64,YQ==YQ=="])
def test_malformed_data_url_is_refused(text: str) -> None:
    """Base64 that is malformed is an error, not a broken file."""
    with pytest.raises(ValueError):  # noqa: PT011 -- binascii has its own texts
        decode(text)
