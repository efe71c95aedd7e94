"""Marks that say where a picture comes from: IPTC's digital source type, and C2PA.

The digital source type is one word of IPTC's list (NewsCodes,
http://cv.iptc.org/newscodes/digitalsourcetype/), which stands in XMP as
``Iptc4xmpExt:DigitalSourceType``, and in the actions of a C2PA manifest. It is all that
is kept of an XMP packet: :func:`packet` writes it anew.

A C2PA manifest is signed, and its hash covers every other byte of the file. So it is
kept only in a file of which nothing else had to go; else its source type is kept as
XMP. A manifest that holds more than provenance (EXIF, an author, pictures of the
ingredients, assertions that are not known here, or a compressed box that is not read)
counts as private metadata, and is not kept either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

GENERATED: Final = "trainedAlgorithmicMedia"
"""Made by a model: what generated results are marked with."""
_BY_MODELS: Final = (GENERATED, "compositeWithTrainedAlgorithmicMedia")
_TERMS: Final = (
    *_BY_MODELS, "compositeSynthetic", "algorithmicMedia", "algorithmicallyEnhanced", "composite", "compositeCapture",
    "dataDrivenMedia", "digitalArt", "digitalCreation", "humanEdits", "minorHumanEdits", "virtualRecording",
    "softwareImage", "screenCapture", "computationalCapture", "digitalCapture", "negativeFilm", "positiveFilm", "print",
)  # fmt: skip
"""The words of the list, the most telling first; other words are not kept."""

_ADDRESS: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_STATED: Final = re.compile(rb"cv\.iptc\.org/newscodes/digitalsourcetype/([A-Za-z]{1,64})")
_PRIVATE: Final = re.compile(
    rb"stds\.exif|exif:|exifEX:|GPSL|c2pa\.metadata|c2pa\.thumbnail\.ingredient|stds\.iptc|CreativeWork|dc:creator|brob"
)
_LABEL: Final = re.compile(rb"jumd.{17}([^\0]{0,256})", re.DOTALL)
"""The label of a JUMBF box (ISO 19566-5), behind a type of 16 bytes and flags."""
_PROVENANCE: Final = re.compile(
    rb"c2pa|([\w.-]+:)?urn:[\w:.-]+|c2pa\.(assertions|claim|signature|actions|hash\.[a-z.]+|ingredient|"
    rb"thumbnail\.claim(\.[a-z]+)?|soft-binding|training-mining|time-stamp)(\.v[0-9])?(__[0-9]+)?"
)
"""Labels of the boxes that a manifest may be made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stripped:
    """A file without metadata, by the module of its format."""

    data: bytes
    """The file without metadata and manifest."""
    width: int = 0
    """Pixels of a film, upright; 0 for a picture, which the decoder measures."""
    height: int = 0
    manifest: bytes = b""
    """The C2PA manifest that stood in it."""
    is_whole: bool = False
    """Whether nothing but the manifest was taken out."""
    text: bytes = b""
    """Metadata that stands compressed in the file, unpacked."""


def source_type(*texts: bytes, generated: bool) -> str | None:
    """Return the digital source type that the texts state; None if there is none.

    ``generated``: the result was made by a model, whatever they say.
    """
    found = {word.decode() for text in texts for word in _STATED.findall(text)}
    terms = _BY_MODELS if generated else _TERMS
    return next((term for term in terms if term in found), GENERATED if generated else None)


def may_stay(stripped: Stripped, term: str | None) -> bool:
    """Return whether the file may keep its manifest, and so every byte.

    It must say itself what a mark would say.
    """
    manifest = stripped.manifest
    says_it = term is None or term.encode() in manifest
    labels = _LABEL.findall(manifest)
    is_provenance = labels[:1] == [b"c2pa"] and all(_PROVENANCE.fullmatch(label) for label in labels)
    return stripped.is_whole and says_it and is_provenance and not _PRIVATE.search(manifest)


def address(term: str) -> str:
    """Return the address that stands for the term, in every format."""
    return _ADDRESS + term


def packet(term: str) -> bytes:
    """Return an XMP packet that states the digital source type, and nothing else."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        f"<Iptc4xmpExt:DigitalSourceType>{address(term)}</Iptc4xmpExt:DigitalSourceType>"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()
