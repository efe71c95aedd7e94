"""The multipart parser: the forms it reads, and the bodies it refuses."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from server.config.settings import Config
from server.sessions.roles import DEFAULT_ROLES, Roles
from server.web.api.form import MAX_PARTS, Form, boundary_of
from tests.server.web.api.forms import BOUNDARY, JPEG, PNG, Post, form, part, sha
from tryon.processor.interface import Role
from tryon.protocol.errors import BadRequest, UnsupportedMedia


async def test_form_reads_parts_of_browser(post: Post) -> None:
    """Image, garment and params arrive as they were sent."""
    answer = await post(
        form(
            part("image", JPEG, "Content-Type: image/jpeg", filename="photo.jpg"),
            part("garment", PNG, "Content-Type: image/png", filename="shirt.png"),
            part("params", b'{"size": "M", "seed": 7}'),
        )
    )
    assert (answer["status"], answer["image"], answer["garment"]) == (201, sha(JPEG), sha(PNG))
    assert answer["params"] == {"size": "M", "seed": 7}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 31, 64])
async def test_form_accepts_any_chunks(post: Post, size: int) -> None:
    """The parts are the same for chunks of any size."""
    body = form(part("params", b"{}"), part("garment", PNG), part("image", JPEG))
    answer = await post(body[at : at + size] for at in range(0, len(body), size))
    assert (answer["image"], answer["garment"]) == (sha(JPEG), sha(PNG))


async def test_form_ignores_empty_fields(post: Post) -> None:
    """An unfilled field has the same fingerprint as a missing one."""
    answer = await post(form(part("image", JPEG), part("garment", b"", filename=""), part("params", b"")))
    assert (answer["garment"], answer["params"]) == (None, {})
    assert answer["fingerprint"] == (await post(form(part("image", JPEG))))["fingerprint"]


async def test_form_ignores_preamble_and_epilogue(post: Post) -> None:
    """RFC 2046 allows both."""
    for preamble in (b"\r\n", b"This is a multi-part message in MIME format.\r\n", b"\xff\r\n\r\n", b"-\r\n--\r\n"):
        assert (await post(preamble + form(part("image", JPEG)) + b"\r\nepilogue"))["status"] == 201


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "image/jpeg",
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=x",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-dataX; boundary=x",
    ],
)
async def test_form_refuses_other_content_types(post: Post, content_type: str | None) -> None:
    """Anything but multipart/form-data with a boundary gets not_multipart."""
    answer = await post(form(part("image", JPEG)), content_type=content_type)
    assert answer == {"status": 415, "code": "not_multipart"}


async def test_form_limits_boundary_length(post: Post) -> None:
    """RFC 2046 allows at most 70 characters."""
    for length, status in ((70, 201), (71, 400), (5000, 400)):
        boundary = "b" * length
        body = form(part("image", JPEG)).replace(BOUNDARY.encode(), boundary.encode())
        assert (await post(body, content_type=f"multipart/form-data; boundary={boundary}"))["status"] == status


@pytest.mark.parametrize(
    "quoted", ['multipart/form-data; boundary="x y"', 'Multipart/Form-Data; charset=utf-8; BOUNDARY="x y"']
)
async def test_form_accepts_quoted_boundary(post: Post, quoted: str) -> None:
    """Case, order and quotes of the parameters do not matter."""
    body = form(part("image", JPEG)).replace(BOUNDARY.encode(), b"x y")
    assert (await post(body, content_type=quoted))["status"] == 201


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        JPEG,
        b"--other\r\n",
        form(part("image", JPEG)).replace(b"\r\n", b"\n"),
        part("image", JPEG),
        part("image", JPEG) + b"--",
        form(part("image", JPEG))[:-4],
        form(f"--{BOUNDARY}\r\n\r\n".encode() + JPEG + b"\r\n"),
        form(f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\n".encode() + JPEG + b"\r\n"),
        form(f'--{BOUNDARY}\r\nContent-Disposition: attachment; name="image"\r\n\r\n'.encode() + JPEG + b"\r\n"),
        form(f"--{BOUNDARY}\r\nContent-Disposition form-data\r\n\r\n".encode() + JPEG + b"\r\n"),
        form(part("image", JPEG, 'Content-Disposition: form-data; name="params"')),
        form(part("image", JPEG), part("params", b"{}"), part("params", b"{}")),
        form(part("image", JPEG, *(f"X-{n}: 1" for n in range(20)))),
        form(part("image", JPEG, *(f"X-{n}: {'x' * 1500}" for n in range(15)))),
        form(part("image", JPEG) + f"--{BOUNDARY}x\r\n".encode()),
        form(part("image", JPEG, f"X-Long: {'x' * 5000}")),
        form(part("image", JPEG), *(part(f"n{n}", b"") for n in range(MAX_PARTS))),
    ],
)
async def test_form_refuses_malformed_body(post: Post, body: bytes) -> None:
    """Wrong framing, headers, names and too many parts get bad_multipart."""
    assert await post(body) == {"status": 400, "code": "bad_multipart"}


async def test_form_accepts_maximum_parts(post: Post) -> None:
    """The limit itself is still accepted."""
    body = form(*(part(f"n{n}", b"") for n in range(MAX_PARTS - 1)), part("image", JPEG))
    assert (await post(body))["status"] == 201


async def test_form_refuses_truncated_body(post: Post) -> None:
    """A body cut at any byte gets bad_multipart."""
    body = form(part("garment", PNG), part("params", b'{"a": 1}'), part("image", JPEG))
    for cut in range(body.rindex(b"--") + 2):  # what follows the last hyphen is an epilogue
        assert (await post(body[:cut]))["code"] == "bad_multipart", cut


@pytest.mark.parametrize(
    "body", [form(), form(part("garment", PNG)), form(part("image", b"")), form(part("Image", JPEG))]
)
async def test_form_requires_image(post: Post, body: bytes) -> None:
    """A missing or empty image gets missing_image."""
    answer = await post(body)
    missing = {"status": 422, "code": "missing_image", "part": "image" if b'"image"' in body else "person"}
    assert answer in (missing, {"status": 400, "code": "bad_multipart"})
    assert answer["code"] == "missing_image" or body == form()  # no part at all is not even a form (RFC 2046)


@pytest.mark.parametrize("name", ["image", "garment"])
@pytest.mark.parametrize("content", [b"GIF89a" + bytes(100), b"x", b"<svg/>", b"%PDF-1.7" + bytes(50), b"\xff\xd8"])
async def test_form_checks_image_by_content(post: Post, name: str, content: bytes) -> None:
    """Neither the file's name nor its type makes an image of other bytes."""
    other = {"image": "garment", "garment": "image"}[name]
    body = form(part(other, JPEG), part(name, content, "Content-Type: image/jpeg", filename="photo.jpg"))
    assert await post(body) == {"status": 415, "code": "unsupported_image", "part": name}


async def test_form_limits_image_size(post: Post, tmp_path: Path) -> None:
    """An image of the maximum size passes, one byte more gets body_too_large."""
    config = Config(data_dir=tmp_path, image_max_bytes=2000, body_max_bytes=10_000)
    for name in ("image", "garment"):
        other = part("garment" if name == "image" else "image", JPEG)
        fits, too_large = (form(other, part(name, JPEG + bytes(size - len(JPEG)))) for size in (2000, 2001))
        assert (await post(fits, config=config))["status"] == 201
        assert await post(too_large, config=config) == {"status": 413, "code": "body_too_large", "part": name}


async def test_form_survives_mutated_bodies(post: Post) -> None:
    """1500 random mutations are accepted or refused, and never fail otherwise."""
    chance = random.Random(3)
    original = form(part("image", JPEG, filename="a"), part("params", b'{"a": [1, "x"]}'), part("garment", PNG))
    codes = set()
    for _ in range(1500):
        body = bytearray(original)
        for _ in range(chance.choice((1, 2, 4))):
            at = chance.randrange(len(body))
            if chance.random() < 0.5:
                at = body.index(b"--", chance.randrange(len(body) // 2)) + chance.randrange(120)
            match chance.randrange(4):
                case 0:
                    body[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    del body[at : at + chance.randrange(1, 8)]
                case 2:
                    body[at:at] = chance.choice(
                        (b"\r", b"\n", b"\r\n", b"--", b'"', b";", b"\0", b":", BOUNDARY.encode())
                    )
                case _:
                    body[at:at] = body[at : at + chance.randrange(1, 200)]
        codes.add((await post(bytes(body)))["code"])
    assert {"ok", "bad_multipart", "unsupported_image"} <= codes
    assert codes <= {"ok", "bad_multipart", "unsupported_image", "missing_image", "unknown_input", "bad_params"}


OUTFIT = Roles(
    (
        Role(name="person", required=True, max_bytes=1000),
        Role(name="garment", required=True, count=3),
        Role(name="mask"),
    )
)
"""Roles of a processor that takes several garments, and a mask."""


async def test_form_reads_images_by_role(post: Post) -> None:
    """Roles have the processor's order, those of one role that of the upload."""
    first, second = JPEG + b"1", JPEG + b"2"
    body = form(part("garment", first), part("mask", PNG), part("person", JPEG), part("garment", second))
    assert (await post(body, roles=OUTFIT))["images"] == [
        ["person", sha(JPEG)],
        ["garment", sha(first)],
        ["garment", sha(second)],
        ["mask", sha(PNG)],
    ]


async def test_form_takes_image_for_first_role(post: Post) -> None:
    """A client that knows no roles sends the same upload, by the same fingerprint."""
    old, new = [await post(form(part(name, JPEG), part("garment", PNG))) for name in ("image", "person")]
    assert (old["status"], old["images"]) == (201, new["images"])
    assert old["fingerprint"] == new["fingerprint"]
    garment_first = Roles((Role(name="garment"), Role(name="person")))
    assert (await post(form(part("image", JPEG)), roles=garment_first))["images"] == [["garment", sha(JPEG)]]


async def test_form_refuses_role_under_two_names(post: Post) -> None:
    """An empty field of the other name is none."""
    answer = await post(form(part("image", JPEG), part("person", JPEG)))
    assert answer == {"status": 422, "code": "unknown_input", "part": "person"}
    assert (await post(form(part("image", b"", filename=""), part("person", JPEG))))["status"] == 201


@pytest.mark.parametrize("file", ['filename="a.png"', "filename*=utf-8''a.png"])
async def test_form_refuses_file_of_unknown_role(post: Post, file: str) -> None:
    """A mask that the processor does not take does not vanish behind a 201."""
    body = form(part("image", JPEG), part("mask", PNG)).replace(b'"mask"', f'"mask"; {file}'.encode())
    assert await post(body) == {"status": 422, "code": "unknown_input", "part": "mask"}
    assert (await post(body, roles=OUTFIT))["code"] == "missing_image"  # which has other wishes


async def test_form_ignores_unknown_fields(post: Post) -> None:
    """A field without a file, or an unfilled one for a file, is no input."""
    body = form(part("csrf", b"token"), part("mask", b"", filename=""), part("image", JPEG))
    assert (await post(body))["images"] == [["person", sha(JPEG)]]


async def test_form_refuses_more_images_than_role_takes(post: Post) -> None:
    """As many as it takes are accepted; empty ones do not count."""
    person, empty = part("person", JPEG), part("garment", b"", filename="")
    for count, code in ((3, "ok"), (4, "unknown_input")):
        answer = await post(form(person, empty, *[part("garment", PNG)] * count), roles=OUTFIT)
        assert answer["code"] == code
    assert answer == {"status": 422, "code": "unknown_input", "part": "garment"}


async def test_form_requires_every_required_role(post: Post) -> None:
    """The refusal names the part as the client did."""
    for body, name in (
        (form(part("person", JPEG)), "garment"),
        (form(part("image", b"", filename=""), part("garment", PNG)), "image"),
        (form(part("person", b"", filename=""), part("garment", PNG)), "person"),
        (form(part("garment", PNG)), "person"),
    ):
        assert await post(body, roles=OUTFIT) == {"status": 422, "code": "missing_image", "part": name}


async def test_form_limits_bytes_of_role(post: Post) -> None:
    """A role may have a smaller limit than the server."""
    large = JPEG + bytes(1000)
    answer = await post(form(part("person", large), part("garment", PNG)), roles=OUTFIT)
    assert answer == {"status": 413, "code": "body_too_large", "part": "person"}
    assert (await post(form(part("person", JPEG), part("garment", large)), roles=OUTFIT))["status"] == 201


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
async def test_form_refuses_transfer_encoding_of_photo(post: Post, encoding: str) -> None:
    """An encoded photo is told as that (RFC 7578 section 4.7)."""
    body = form(part("image", b"/9j/4AAQ", f"Content-Transfer-Encoding: {encoding}"))
    assert await post(body) == {"status": 415, "code": "unsupported_encoding"}
    ignored = form(part("note", b"aGk=", f"Content-Transfer-Encoding: {encoding}"), part("image", JPEG))
    assert (await post(ignored))["status"] == 201


def test_refusal_says_what_is_missing() -> None:
    """No Content-Type, no boundary in it, and a boundary that is not in the body."""
    for content_types, words in ([], "has no Content-Type"), (["multipart/form-data"], "no boundary parameter"):
        with pytest.raises(UnsupportedMedia, match=words):
            boundary_of(content_types)
    with pytest.raises(BadRequest, match="two Content-Type"):
        boundary_of(["multipart/form-data; boundary=a", "multipart/form-data; boundary=b"])
    reading = Form(b"other", roles=DEFAULT_ROLES, image_max_bytes=10_000, fingerprint=False)
    reading.feed(form(part("image", JPEG)))
    with pytest.raises(BadRequest, match="not in the body"):
        reading.end()
    cut = Form(BOUNDARY.encode(), roles=DEFAULT_ROLES, image_max_bytes=10_000, fingerprint=False)
    cut.feed(part("image", JPEG))
    with pytest.raises(BadRequest, match="before its last boundary"):
        cut.end()
