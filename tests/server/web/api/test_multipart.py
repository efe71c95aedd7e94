"""The framing of multipart bodies: the grammar of RFC 2046, however it is cut."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.sessions.roles import DEFAULT_ROLES
from server.web.api.form import Form, boundary_of
from server.web.api.multipart import (
    MAX_HEADER_BLOCK_BYTES,
    MAX_PADDING_BYTES,
    MAX_PREAMBLE_BYTES,
    Headers,
    MultipartParser,
    PartEnd,
    parameters,
)
from tryon.protocol.errors import BadRequest, TooLarge, Unprocessable, UnsupportedMedia

PHOTO = b"\xff\xd8\xff\xe0 a photo \r\n-- \r\n"


def parts_of(boundary: bytes, chunks: Iterable[bytes]) -> list[tuple[Headers, bytes]]:
    """Return each part's headers and content. Raises BadRequest also without an end."""
    parser, parts = MultipartParser(boundary), []
    for chunk in chunks:
        for event in parser.feed(chunk):
            if isinstance(event, list):
                headers, content = event, b""
            elif isinstance(event, PartEnd):
                parts.append((headers, content))
            else:
                content += event
    if not parser.ended:
        raise BadRequest("bad_multipart")
    return parts


def contents(*body: bytes) -> list[bytes]:
    """Return the contents of the parts of a body with the boundary ``b``."""
    return [content for _, content in parts_of(b"b", body)]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"--b\r\nX: 1\r\n\r\none\r\n--b--", [b"one"]),
        (b"preamble\r\n--b\r\nX: 1\r\n\r\none\r\n--b--\r\nepilogue\r\n--b\r\nX: 1", [b"one"]),
        (b"\r\n\r\n--bb--b\r\n--b\r\nX: 1\r\n\r\none\r\n--b--", None),
        (b"--b \t \r\nX: 1\r\n\r\none\r\n--b\t\r\n\r\ntwo\r\n--b--  \r\n", [b"one", b"two"]),
        (b"--b\r\n\r\n\r\n--b--", [b""]),
        (b"--b\r\n\r\n--b\r\nX: 1\r\n\r\n--b--", [b"", b""]),
        (b"--b\r\n\r\n\r\n\r\n--b--", [b"\r\n"]),
        (b"--b\r\n\r\n--\r\n--\r\n--b--", [b"--\r\n--"]),
        (b"--b--", []),
        (b"--b\r\nX: 1\r\n--b--", None),
        (b"--b\nX: 1\n\none\n--b--", None),
        (b"--b\r\n\r\none\r\n--bx\r\n--b--", None),
        (b"--b\r\n\r\none\r\n--b-x\r\n--b--", None),
        (b"--b\r\n\r\none\r\n--b \rx\r\n--b--", None),
        (b"--b\r\n\r\none--b--", None),
        (b"--b\r\n X: folded from nothing\r\n\r\none\r\n--b--", None),
        (b"--b\r\nX 1\r\n\r\none\r\n--b--", None),
        (b"--b\r\nX : 1\r\n\r\none\r\n--b--", None),
        (b"--b\r\nX: a\0b\r\n\r\none\r\n--b--", None),
        (b"--b\r\nX: a\nY: b\r\n\r\none\r\n--b--", None),
    ],
)
def test_parser_follows_the_grammar_however_it_is_cut(body: bytes, wanted: list[bytes] | None) -> None:
    """Whole, byte by byte, and cut in two at any place: the same parts or a refusal."""
    for chunks in ([body], [bytes([byte]) for byte in body], *([body[:at], body[at:]] for at in range(len(body)))):
        if wanted is None:
            with pytest.raises(BadRequest):
                contents(*chunks)
        else:
            assert contents(*chunks) == wanted


def test_parser_unfolds_headers() -> None:
    """A line that begins with white space continues the one above (RFC 5322 2.2.3)."""
    body = b"--b\r\nContent-DISPOSITION: \t form-data;\r\n\tname=image;\r\n   \t filename=p.jpg \r\nX:\r\n\r\n\r\n--b--"
    [(headers, _)] = parts_of(b"b", [body])
    assert headers == [(b"content-disposition", b"form-data; name=image; filename=p.jpg"), (b"x", b"")]


@pytest.mark.parametrize(
    "endless",
    [
        b"x" * (MAX_PREAMBLE_BYTES + 1),
        b"--b" + b" " * (MAX_PADDING_BYTES + 1),
        b"--b\r\nX: " + b"x" * MAX_HEADER_BLOCK_BYTES,
        b"--b\r\n" + b"x" * MAX_HEADER_BLOCK_BYTES,
        b"--b\r\n" + b"X: 1\r\n" * (MAX_HEADER_BLOCK_BYTES // 6 + 1),
    ],
)
def test_parser_bounds_everything_but_content(endless: bytes) -> None:
    """What is not content is refused by its size, before its end has come."""
    with pytest.raises(BadRequest):
        list(MultipartParser(b"b").feed(endless))


def test_parser_keeps_less_than_a_delimiter_of_content() -> None:
    """Only bytes that may begin a delimiter wait, so an image is judged early."""
    parser = MultipartParser(b"boundary")
    assert b"".join(e for e in parser.feed(b"--boundary\r\n\r\n0123456789\r\n--bound") if isinstance(e, bytes)) == (
        b"0123456789"
    )
    assert list(parser.feed(b"less")) == [b"\r\n--boundless"]


@pytest.mark.parametrize(
    "unit",
    [b"\r\n--bounda", b"\r\n--boundarx", b"\r\n", b"\r", b"--boundary", b"\r\n--", b"\r\n--boundary\r\n\r\n", b"\0"],
)
@pytest.mark.parametrize("head", [b"", b"--boundary\r\n\r\n", b"--boundary\r\n", b"--boundary"])
def test_parser_works_in_few_steps_whatever_the_body_holds(head: bytes, unit: bytes) -> None:
    """The calls of a slice do not depend on its bytes: all searching happens in C."""
    form, calls = Form(b"boundary", roles=DEFAULT_ROLES, image_max_bytes=2**20, fingerprint=False), 0
    body = head + unit * (2**20 // len(unit))

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for at in range(0, len(body), 65536):
        calls = 0
        sys.setprofile(count)
        try:
            form.feed(body[at : at + 65536])
        except BadRequest:
            break
        finally:
            sys.setprofile(None)
        assert calls < 60
    assert calls < 1000  # a body of many parts or headers is refused at their limit


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (b'form-data; name="image"; filename="p.jpg"', {b"name": b"image", b"filename": b"p.jpg"}),
        (b'FORM-DATA;filename="a; name=x";NAME=image', {b"name": b"image", b"filename": b"a; name=x"}),
        (b"form-data; name=image; filename=p.jpg; filename*=utf-8''p.jpg", {b"name": b"image", b"filename": b"p.jpg"}),
        (b"form-data; filename*=UTF-8''na%20me.jpg; name=image", {b"name": b"image"}),
        (rb'form-data; filename="a\"b\\c"; name="image"', {b"name": b"image", b"filename": rb'a"b\c'}),
        (rb'form-data; filename="C:\temp\a.jpg"; name="image"', {b"name": b"image", b"filename": rb"C:\temp\a.jpg"}),
        (b'form-data ; name = "image" ;', {b"name": b"image"}),
        (b'form-data; name="image', {b"name": b'"image'}),
        (b"form-data; =x; name=image", {}),
    ],
)
def test_parameters_may_be_quoted_and_in_any_order(value: bytes, wanted: dict[bytes, bytes]) -> None:
    """Tokens, quoted strings, quoted pairs, extended parameters, Windows paths."""
    kind, found = parameters(value)
    assert kind == b"form-data"
    assert {name: text for name, text in found.items() if not name.endswith(b"*")} == wanted


def test_parameter_may_not_stand_twice() -> None:
    """Two names would be two readings of one part."""
    with pytest.raises(BadRequest):
        parameters(b"form-data; name=image; NAME=params")


# -- bodies by the grammar -------------------------------------------------------------

some = settings(max_examples=30)

BOUNDARY_CHARACTERS = "0123456789abcXYZ'()+_,-./:=?"
SPACE = st.text(" \t", max_size=4).map(str.encode)
FOLD = st.sampled_from([b" ", b"", b"\t", b"\r\n ", b"\r\n\t  ", b" \r\n "])


@st.composite
def boundaries(draw: st.DrawFn) -> bytes:
    """Return a boundary of RFC 2046: 1 to 70 characters, no space at the end."""
    inner = draw(st.text(BOUNDARY_CHARACTERS + " ", max_size=69))
    return (inner + draw(st.sampled_from(BOUNDARY_CHARACTERS))).encode()


def text(draw: st.DrawFn, boundary: bytes) -> bytes:
    """Return bytes that nearly hold a delimiter, but do not."""
    near = [b"\r\n", b"\r", b"\n", b"--", b"\r\n--", b"\r\n--" + boundary[:-1], boundary, b"--" + boundary, b"\0", b"x"]
    data = b"".join(draw(st.lists(st.sampled_from(near) | st.binary(max_size=20), max_size=8)))
    while b"\r\n--" + boundary in b"\r\n" + data + b"\r\n":
        data = data.replace(b"--" + boundary, b"")
    return data


def cased(draw: st.DrawFn, name: bytes) -> bytes:
    return draw(st.sampled_from([name, name.lower(), name.upper()]))


@st.composite
def forms(draw: st.DrawFn) -> tuple[str, bytes, dict[str, bytes]]:
    """Return the Content-Type and the body of a form, and its parts by their names."""
    boundary = draw(boundaries())
    names = draw(
        st.permutations(["image", *draw(st.sets(st.sampled_from(["garment", "params", "_charset_", "other"])))])
    )
    parts = {name: text(draw, boundary) for name in names}
    parts["image"] = PHOTO + parts["image"]
    if "garment" in parts:
        parts["garment"] = PHOTO + parts["garment"]
    out = []
    for name, content in parts.items():
        quoted = draw(st.booleans())
        fields = [cased(draw, b"name") + b"=" + (b'"%s"' % name.encode() if quoted else name.encode())]
        more_fields = [rb'x="a\"b"']
        if name in ("image", "garment", "params"):  # a file in any other is refused
            more_fields += [b'filename="p;.jpg"', b"filename*=utf-8''%e2%82%ac"]
        fields += draw(st.sets(st.sampled_from(more_fields)))
        disposition = b"".join(draw(FOLD) + b";" + draw(FOLD) + each for each in draw(st.permutations(fields)))
        headers = [
            cased(draw, b"Content-Disposition")
            + b":"
            + draw(FOLD)
            + cased(draw, b"form-data")
            + disposition
            + draw(FOLD)
        ]
        more = [b"Content-Type: image/jpeg", b"Content-Transfer-Encoding: BINARY", b"X-Empty:", b"Content-Length: 9"]
        headers += draw(st.sets(st.sampled_from(more)))
        lines = b"".join(header + b"\r\n" for header in draw(st.permutations(headers)))
        out.append(b"--" + boundary + draw(SPACE) + b"\r\n" + lines + b"\r\n" + content + b"\r\n")
    preamble = draw(st.just(b"") | st.just(text(draw, boundary) + b"\r\n"))
    epilogue = draw(st.just(b"") | st.just(draw(SPACE) + b"\r\n" + draw(st.binary(max_size=50))))
    shown = boundary.decode()
    if draw(st.booleans()) or not shown.replace("-", "").isalnum():
        shown = f'"{shown}"'
    return (
        f"multipart/form-data; boundary={shown}",
        preamble + b"".join(out) + b"--" + boundary + b"--" + epilogue,
        parts,
    )


def read(content_type: str, body: bytes, cuts: list[int]) -> dict[str, bytes]:
    """Return the parts of a form that comes in chunks. Raises TryOnError."""
    form = Form(boundary_of([content_type]), roles=DEFAULT_ROLES, image_max_bytes=10**6, fingerprint=False)
    at = 0
    for cut in cuts:
        form.feed(body[at : at + cut])
        at += cut
    form.feed(body[at:])
    form.end()
    return {part.name: part.take() for part in form.parts}


@some
@given(forms(), st.lists(st.integers(0, 40), max_size=30))
def test_every_form_of_the_grammar_is_read(form: tuple[str, bytes, dict[str, bytes]], cuts: list[int]) -> None:
    """Whatever is optional, folded or quoted: the parts come out byte for byte."""
    content_type, body, parts = form
    wanted = {name: content for name, content in parts.items() if name in ("image", "garment", "params")}
    assert read(content_type, body, cuts) == wanted


@some
@given(forms(), st.data())
def test_damaged_form_is_refused_or_read(form: tuple[str, bytes, dict[str, bytes]], data: st.DataObject) -> None:
    """Damage gets a refusal of its own, or leaves a form; never another error."""
    content_type, body, _ = form
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        gone = data.draw(st.integers(0, 6))
        body = (
            body[:at]
            + data.draw(st.sampled_from([b"", b"\r\n", b"--", b"\0", b'"', b";", b"\xff"]))
            + body[at + gone :]
        )
    with contextlib.suppress(BadRequest, TooLarge, UnsupportedMedia, Unprocessable):
        read(content_type, body, data.draw(st.lists(st.integers(0, 40), max_size=10)))


@some
@given(forms(), st.data())
def test_form_without_its_end_is_refused(form: tuple[str, bytes, dict[str, bytes]], data: st.DataObject) -> None:
    """A body that is cut anywhere before the last hyphen is not taken."""
    content_type, body, _ = form
    boundary = boundary_of([content_type])
    end = body.rindex(b"\r\n--" + boundary + b"--", 0, body.index(b"\r\n--" + boundary + b"--") + 6 + len(boundary))
    cut = data.draw(st.integers(0, end + 5 + len(boundary)))
    with pytest.raises(BadRequest):
        read(content_type, body[:cut], [])
