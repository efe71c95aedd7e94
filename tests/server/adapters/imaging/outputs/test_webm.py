"""A film in WebM: its structure is whole, and its metadata has become empty space."""

from __future__ import annotations

import time

import pytest

from server.adapters.imaging.outputs import webm
from testkit import films
from testkit.films import HEIGHT, SAMPLE, SECRET, WIDTH, element
from tests.server.adapters.imaging.outputs.results import marks, refused, verified


def _segment(film: bytes) -> bytes:
    """Return what stands in the segment, whose size may be written in 4 or 8 bytes."""
    at = film.index(b"\x18\x53\x80\x67") + 4
    return film[at + (8 if film[at] == 1 else 4) :]


def test_film_without_metadata_keeps_its_elements() -> None:
    """Nothing in it had to go."""
    film = films.webm(private=False)
    shown = verified(film, "video/webm")
    assert _segment(shown.data) == _segment(film)
    assert (shown.type, shown.width, shown.height) == ("video/webm", WIDTH, HEIGHT)
    assert verified(shown.data, "video/webm").data == shown.data


@pytest.mark.parametrize("is_live", [False, True])
def test_metadata_goes_and_clusters_stay_in_place(is_live: bool) -> None:
    """Cues find clusters by their place, so all elements keep their size."""
    film = films.webm(is_live=is_live)
    shown = verified(film, "video/webm").data
    assert film.count(SECRET) == 46
    assert SECRET not in shown
    assert len(_segment(shown)) == len(_segment(film))
    assert _segment(shown).index(SAMPLE) == _segment(film).index(SAMPLE)


@pytest.mark.parametrize("is_live", [False, True])
def test_generated_film_is_marked(is_live: bool) -> None:
    """The mark is a tag at the end, since WebM has no XMP."""
    film = films.webm(private=False, is_live=is_live)
    shown = verified(film, "video/webm", generated=True).data
    assert _segment(shown).startswith(_segment(film))
    assert marks(shown) == ["trainedAlgorithmicMedia"]
    assert marks(verified(shown, "video/webm", generated=True).data) == ["trainedAlgorithmicMedia"]


def test_comments_of_vorbis_are_blanked() -> None:
    """The codec's own header has comments, as an Ogg file has."""
    text = len(SECRET).to_bytes(4, "little") + SECRET
    header = b"\x02\x1e\x3c" + bytes(30) + b"\3vorbis" + text + (1).to_bytes(4, "little") + text + b"\1\5vorbis..."
    sound = element(0xAE, element(0x83, b"\2"), element(0x86, b"A_VORBIS"), element(0x63A2, header))
    film = films.webm(private=False, behind=element(0x1654AE6B, sound))
    shown = verified(film, "video/webm").data
    assert film.count(SECRET) == 2
    assert SECRET not in shown
    assert b"\5vorbis" in shown


def test_trailing_bytes_of_film_go() -> None:
    """A file that is another file too, from its end, is only the film."""
    film = films.webm(private=False)
    assert verified(film + b"PK\5\6" + bytes(18), "video/webm").data == verified(film, "video/webm").data


def test_film_of_an_encoder_is_taken() -> None:
    """As ffmpeg writes it."""
    shown = verified(films.ENCODED_WEBM, "video/webm", generated=True)
    assert (shown.width, shown.height) == (64, 64)
    assert marks(shown.data) == ["trainedAlgorithmicMedia"]


def test_text_is_no_film() -> None:
    """Thirteen bytes of text, a page and another film are no WebM."""
    for data in (b"", b"no picture...", b"<html>film</html>", films.mp4(), films.webm(doc_type=b"matroska")):
        assert refused(data, "video/webm") == "unreadable_image"


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.99])
def test_truncated_film_is_refused(share: float) -> None:
    """A download that broke off."""
    film = films.webm(private=False)
    assert refused(film[: int(len(film) * share)], "video/webm") == "unreadable_image"


@pytest.mark.parametrize(
    "film",
    [
        films.webm(kind=17),  # subtitles
        films.webm(codec=b"V_MS/VFW/FOURCC"),
        films.webm().replace(b"\xa3", b"\xa8"),  # no blocks
        films.webm().replace(b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa4"),
    ],
)
def test_broken_or_foreign_structure_is_refused(film: bytes) -> None:
    """Tracks that are neither picture nor sound, codecs that no browser plays."""
    assert refused(film, "video/webm") == "unreadable_image"


def test_film_of_countless_elements_is_bounded() -> None:
    """A million empty elements are refused after the first two hundred thousand."""
    started = time.process_time()
    assert refused(films.webm(behind=b"\xec\x80" * 1_000_000), "video/webm") == "unreadable_image"
    assert time.process_time() - started < 10
    assert webm.MAX_ELEMENTS < 1_000_000
