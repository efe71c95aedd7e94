"""The multipart parser: the forms it reads, and the bodies it refuses."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from server.config.settings import Config
from server.web.api.form import MAX_PARTS
from tests.server.web.api.forms import BOUNDARY, JPEG, PNG, Post, form, part, sha


async def test_a_browsers_form_is_understood(post: Post) -> None:
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
async def test_the_body_may_be_cut_into_chunks_anywhere(post: Post, size: int) -> None:
    body = form(part("params", b"{}"), part("garment", PNG), part("image", JPEG))
    answer = await post(body[at : at + size] for at in range(0, len(body), size))
    assert (answer["image"], answer["garment"]) == (sha(JPEG), sha(PNG))


async def test_an_empty_garment_or_params_field_means_none(post: Post) -> None:
    answer = await post(form(part("image", JPEG), part("garment", b"", filename=""), part("params", b"")))
    assert (answer["garment"], answer["params"]) == (None, {})
    assert answer["fingerprint"] == (await post(form(part("image", JPEG))))["fingerprint"]


async def test_epilogue_and_preamble_are_ignored(post: Post) -> None:
    assert (await post(b"\r\n" + form(part("image", JPEG)) + b"\r\nepilogue"))["status"] == 201


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
async def test_what_is_no_form_is_not_multipart(post: Post, content_type: str | None) -> None:
    answer = await post(form(part("image", JPEG)), content_type=content_type)
    assert answer == {"status": 415, "code": "not_multipart"}


async def test_a_boundary_has_at_most_70_characters(post: Post) -> None:
    for length, status in ((70, 201), (71, 400), (5000, 400)):
        boundary = "b" * length
        body = form(part("image", JPEG)).replace(BOUNDARY.encode(), boundary.encode())
        assert (await post(body, content_type=f"multipart/form-data; boundary={boundary}"))["status"] == status


@pytest.mark.parametrize(
    "quoted", ['multipart/form-data; boundary="x y"', 'Multipart/Form-Data; charset=utf-8; BOUNDARY="x y"']
)
async def test_a_quoted_boundary_is_understood(post: Post, quoted: str) -> None:
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
        form(part("image", JPEG), part("image", JPEG)),
        form(part("image", JPEG), part("image", b"")),
        form(part("image", JPEG), part("garment", PNG), part("garment", PNG)),
        form(part("image", JPEG), part("params", b"{}"), part("params", b"{}")),
        form(part("image", JPEG, *(f"X-{n}: 1" for n in range(20)))),
        form(part("image", JPEG, f"X-Long: {'x' * 5000}")),
        form(part("image", JPEG), *(part(f"n{n}", b"") for n in range(MAX_PARTS))),
    ],
)
async def test_a_malformed_body_is_a_bad_multipart(post: Post, body: bytes) -> None:
    assert await post(body) == {"status": 400, "code": "bad_multipart"}


async def test_as_many_parts_as_allowed_are_allowed(post: Post) -> None:
    body = form(*(part(f"n{n}", b"") for n in range(MAX_PARTS - 1)), part("image", JPEG))
    assert (await post(body))["status"] == 201


async def test_a_body_cut_at_any_byte_is_a_bad_multipart(post: Post) -> None:
    body = form(part("garment", PNG), part("params", b'{"a": 1}'), part("image", JPEG))
    for cut in range(body.rindex(b"--") + 2):  # what follows the last hyphen is an epilogue
        assert (await post(body[:cut]))["code"] == "bad_multipart", cut


@pytest.mark.parametrize(
    "body", [form(), form(part("garment", PNG)), form(part("image", b"")), form(part("Image", JPEG))]
)
async def test_a_form_without_a_photo_is_missing_it(post: Post, body: bytes) -> None:
    answer = await post(body)
    assert answer in ({"status": 422, "code": "missing_image"}, {"status": 400, "code": "bad_multipart"})
    assert answer["code"] == "missing_image" or body == form()  # no part at all is not even a form (RFC 2046)


@pytest.mark.parametrize("name", ["image", "garment"])
@pytest.mark.parametrize("content", [b"GIF89a" + bytes(100), b"x", b"<svg/>", b"%PDF-1.7" + bytes(50), b"\xff\xd8"])
async def test_content_decides_what_an_image_is(post: Post, name: str, content: bytes) -> None:
    other = {"image": "garment", "garment": "image"}[name]
    body = form(part(other, JPEG), part(name, content, "Content-Type: image/jpeg", filename="photo.jpg"))
    assert await post(body) == {"status": 415, "code": "unsupported_image"}


async def test_an_image_above_its_cap_is_too_large_and_one_at_it_is_not(post: Post, tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, image_max_bytes=2000, body_max_bytes=10_000)
    for name in ("image", "garment"):
        other = part("garment" if name == "image" else "image", JPEG)
        fits, too_large = (form(other, part(name, JPEG + bytes(size - len(JPEG)))) for size in (2000, 2001))
        assert (await post(fits, config=config))["status"] == 201
        assert await post(too_large, config=config) == {"status": 413, "code": "body_too_large"}


async def test_mutated_bodies_raise_only_domain_errors(post: Post) -> None:
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
    assert codes <= {"ok", "bad_multipart", "unsupported_image", "missing_image", "bad_params"}
