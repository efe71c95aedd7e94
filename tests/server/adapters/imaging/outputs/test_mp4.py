"""A film in MP4: its structure is whole, and its metadata has become empty space."""

from __future__ import annotations

import struct
import time

import pytest

from server.adapters.imaging.outputs import mp4
from server.adapters.imaging.outputs.provenance import packet
from testkit import films
from testkit.films import C2PA, HEIGHT, SAMPLE, SECRET, WIDTH, box, full
from tests.server.adapters.imaging.outputs.results import jumbf, manifest, marks, refused, verified


def test_film_without_metadata_stays_as_it_is() -> None:
    """Nothing in it had to go."""
    film = films.mp4(private=False)
    shown = verified(film, "video/mp4")
    assert shown.data == film
    assert (shown.type, shown.width, shown.height) == ("video/mp4", WIDTH, HEIGHT)


def test_metadata_goes_and_samples_stay_in_place() -> None:
    """Samples are found by their place, so all boxes keep their size."""
    film = films.mp4(behind=box(b"uuid", bytes(16), SECRET) + box(b"free", SECRET) + box(b"meta", SECRET))
    shown = verified(film, "video/mp4").data
    assert film.count(SECRET) == 10
    assert SECRET not in shown
    assert b"\xe1\x02\x03\x04" not in shown  # when it was made
    assert len(shown) == len(film)
    assert shown.index(SAMPLE) == film.index(SAMPLE)
    assert verified(shown, "video/mp4").data == shown


def test_generated_film_is_marked() -> None:
    """The packet stands in a box of its own behind the film."""
    film = films.mp4(private=False)
    shown = verified(film, "video/mp4", generated=True).data
    assert shown.startswith(film)
    assert marks(shown) == ["trainedAlgorithmicMedia"]
    assert verified(shown, "video/mp4", generated=True).data[: len(film)] == film


def test_open_last_box_is_closed_before_the_mark() -> None:
    """A box without a size goes on to the end of the file, the mark included."""
    film = films.mp4(private=False)
    at = film.index(b"mdat") - 4
    shown = verified(film[:at] + bytes(4) + film[at + 4 :], "video/mp4", generated=True).data
    assert shown.startswith(film)


def test_source_type_of_film_stays() -> None:
    """The packet goes, and its statement stays."""
    xmp = box(b"uuid", bytes.fromhex("be7acfcb97a942e89c71999491e3afac"), packet("algorithmicMedia"), SECRET)
    shown = verified(films.mp4(private=False, behind=xmp), "video/mp4").data
    assert SECRET not in shown
    assert marks(shown) == ["algorithmicMedia"]


def test_manifest_stays_where_nothing_else_goes() -> None:
    """A C2PA manifest covers the rest of the film."""
    stored = box(b"uuid", C2PA, bytes(4), b"manifest\0", bytes(8), manifest())
    whole = films.mp4(private=False, before=stored)
    assert verified(whole, "video/mp4").data == whole
    assert b"jumb" not in verified(films.mp4(private=True, before=stored), "video/mp4").data


def test_other_box_in_place_of_manifest_goes() -> None:
    """Its name is no proof of what it holds."""
    stored = box(b"uuid", C2PA, bytes(4), b"manifest\0", bytes(8), jumbf(b"com.camera.place", SECRET))
    assert SECRET not in verified(films.mp4(private=False, before=stored), "video/mp4").data


def test_table_of_countless_samples_is_refused_unread() -> None:
    """Numbers of four bytes become objects of 36 while a table is read."""
    count = mp4.MAX_SAMPLES + 1
    table = full(b"stsz", struct.pack(">II", 0, count), bytes(4 * count))
    film = films.mp4(private=False).replace(full(b"stsz", struct.pack(">III", 0, 1, len(SAMPLE))), table)
    assert refused(film, "video/mp4") == "unreadable_image"


def test_film_of_an_encoder_is_taken() -> None:
    """As ffmpeg writes it."""
    shown = verified(films.ENCODED_MP4, "video/mp4", generated=True)
    assert (shown.width, shown.height) == (64, 64)
    assert marks(shown.data) == ["trainedAlgorithmicMedia"]


def test_text_is_no_film() -> None:
    """Thirteen bytes of text, a page and a picture are no film."""
    for data in (b"", b"no picture...", b"<html>film</html>", b"\x89PNG\r\n\x1a\n" + bytes(40), films.webm()):
        assert refused(data, "video/mp4") == "unreadable_image"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.99])
def test_truncated_film_is_refused(share: float) -> None:
    """A download that broke off."""
    film = films.mp4()
    assert refused(film[: int(len(film) * share)], "video/mp4") == "unreadable_image"


@pytest.mark.parametrize(
    "film",
    [
        films.mp4(handler=b"meta"),  # a phone's track of places
        films.mp4(handler=b"text"),
        films.mp4(codec=b"encv"),
        films.mp4(reference=full(b"url ", b"http://10.0.0.1/film.mp4\0")),
        box(b"ftyp", b"isom\0\0\0\0isom") + box(b"mdat", SAMPLE),
        box(b"ftyp", b"isom\0\0\0\0", SECRET * 40) + films.mp4(private=False)[24:],
        films.mp4(private=False).replace(b"ftyp", b"styp", 1),
        films.mp4(private=False).replace(b"stsz\0\0\0\0\0\0\0\0\0\0\0\1", b"stsz\0\0\0\0\0\0\0\0\xff\xff\xff\xff"),
        films.mp4(private=False).replace(b"stco\0\0\0\0\0\0\0\1", b"stco\0\0\0\0\0\0\0\2"),
        films.mp4(private=False) + films.mp4(private=False),
        films.mp4(private=False, behind=struct.pack(">I4sQ", 1, b"free", 2**63)),
    ],
)
def test_broken_or_foreign_structure_is_refused(film: bytes) -> None:
    """Tracks that are neither picture nor sound, samples elsewhere, tables that lie."""
    assert refused(film, "video/mp4") == "unreadable_image"


def test_film_of_too_many_pixels_is_refused() -> None:
    """The size of a film is judged as that of a picture."""
    large = films.mp4(private=False).replace(struct.pack(">HH", WIDTH, HEIGHT), struct.pack(">HH", 4000, 4000))
    assert refused(large, "video/mp4") == "too_many_pixels"


def test_film_of_countless_boxes_is_bounded() -> None:
    """A million empty boxes are refused after the first fifty thousand."""
    started = time.process_time()
    assert refused(films.mp4(private=False, behind=box(b"free") * 1_000_000), "video/mp4") == "unreadable_image"
    assert time.process_time() - started < 5
    assert mp4.MAX_BOXES < 1_000_000


def test_fragmented_film_is_taken() -> None:
    """Samples may stand in fragments, which streaming encoders write."""
    empty = films.mp4(private=False).replace(b"stsz" + struct.pack(">IIII", 0, 0, 1, len(SAMPLE)), b"stsz" + bytes(16))
    fragment = box(b"moof", full(b"mfhd", bytes(4)), box(b"traf", full(b"tfhd", bytes(4)), full(b"trun", bytes(4))))
    prft = full(b"prft", SECRET)
    assert refused(empty, "video/mp4") == "unreadable_image"
    shown = verified(empty + prft + fragment + box(b"mdat", SAMPLE), "video/mp4").data
    assert SECRET not in shown
