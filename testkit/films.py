"""Small films with the structure of real ones, box by box: what a verifier walks over.

No decoder could show them; every metadata box that encoders and phones write is there.
"""

from __future__ import annotations

import base64
import struct
from typing import Final

SECRET: Final = b"Elm Street 5"
"""A text in every place of a film that may hold metadata."""
C2PA: Final = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
WIDTH: Final = 320
HEIGHT: Final = 240
SAMPLE: Final = b"\0\0\0\x10" + b"\x65" * 16


def box(name: bytes, *contents: bytes) -> bytes:
    """Return an MP4 box."""
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), name) + content


def full(name: bytes, *contents: bytes, flags: int = 0) -> bytes:
    """Return an MP4 box with version 0 and flags."""
    return box(name, flags.to_bytes(4), *contents)


def mp4(
    *,
    private: bool = True,
    handler: bytes = b"vide",
    codec: bytes = b"avc1",
    reference: bytes | None = None,
    before: bytes = b"",
    behind: bytes = b"",
) -> bytes:
    """Return an MP4 with one sample; ``private``: with metadata wherever it may stand.

    ``before`` and ``behind`` are boxes of the file, before and behind the samples.
    """
    secret = SECRET if private else b""
    when = b"\xe1\x02\x03\x04" * 2 if private else bytes(8)
    head = box(b"ftyp", b"isom\0\0\0\0isommp41") + before
    for _ in range(2):  # the place of the sample is known when the length of all before it is
        place = len(head) + len(_moov(0, when, secret, handler, codec, reference)) + 8
        moov = _moov(place, when, secret, handler, codec, reference)
    return head + moov + box(b"mdat", SAMPLE) + behind


def _moov(place: int, when: bytes, secret: bytes, handler: bytes, codec: bytes, reference: bytes | None) -> bytes:
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    extra = box(b"udta", box(b"\xa9xyz", secret), full(b"meta", secret)) if secret else b""
    entry = box(
        codec, bytes(6) + b"\0\1" + bytes(16), struct.pack(">HH", WIDTH, HEIGHT), bytes(14),
        bytes((len(secret),)) + secret.ljust(31, b"\0"), b"\0\x18\xff\xff", box(b"avcC", b"\1\x42\0\x1e\xff\xe0\0"),
        box(b"uuid", bytes(16), secret) if secret else b"",
    )  # fmt: skip
    url = reference if reference is not None else full(b"url ", flags=1)
    stbl = box(
        b"stbl", full(b"stsd", b"\0\0\0\1", entry), full(b"stts", struct.pack(">III", 1, 1, 1)),
        full(b"stsc", struct.pack(">IIII", 1, 1, 1, 1)), full(b"stsz", struct.pack(">III", 0, 1, len(SAMPLE))),
        full(b"stco", struct.pack(">II", 1, place)),
    )  # fmt: skip
    minf = box(b"minf", full(b"vmhd", bytes(8), flags=1), box(b"dinf", full(b"dref", b"\0\0\0\1", url)), stbl)
    name = secret + b"\0" if secret else b"VideoHandler\0"
    mdia = box(
        b"mdia", full(b"mdhd", when, struct.pack(">IIHH", 30, 1, 0x55C4, 0)),
        full(b"hdlr", bytes(4) + handler + bytes(12) + name), minf,
    )  # fmt: skip
    tkhd = full(
        b"tkhd", when, struct.pack(">IIII", 1, 0, 1, 0), bytes(4 + 8), matrix, struct.pack(">II", WIDTH << 16, HEIGHT << 16),
        flags=3,
    )  # fmt: skip
    mvhd = full(b"mvhd", when, struct.pack(">IIIH", 30, 1, 65536, 256), bytes(10), matrix, bytes(24), b"\0\0\0\2")
    return box(b"moov", mvhd, box(b"trak", tkhd, mdia, extra), extra)


# -- WebM ------------------------------------------------------------------------------


def element(id: int, *contents: bytes, size: bytes | None = None) -> bytes:
    """Return an element of EBML; ``size`` in place of its own."""
    content = b"".join(contents)
    length = size if size is not None else (len(content) | 1 << 28).to_bytes(4)
    return id.to_bytes((id.bit_length() + 7) // 8) + length + content


def webm(
    *,
    private: bool = True,
    codec: bytes = b"V_VP9",
    kind: int = 1,
    doc_type: bytes = b"webm",
    is_live: bool = False,
    behind: bytes = b"",
) -> bytes:
    """Return a WebM with two clusters; ``is_live``: of open sizes, as recorders write.

    ``behind`` are elements of the segment, behind the clusters.
    """
    unknown = b"\x01\xff\xff\xff\xff\xff\xff\xff" if is_live else None
    head = element(0x1A45DFA3, element(0x4286, b"\1"), element(0x4282, doc_type), element(0x4287, b"\2"))
    apps = [element(id, SECRET if private else b"Lavf60.3.100") for id in (0x4D80, 0x5741)]
    info = [element(0x2AD7B1, b"\x0f\x42\x40"), *apps]
    private_elements, extra = [], b""
    if private:
        info += [element(0x7BA9, SECRET), element(0x4461, bytes(8))]
        private_elements = [element(0x536E, SECRET), element(0x22B59C, SECRET)]
        tag = element(0x7373, element(0x67C8, element(0x45A3, b"LOCATION"), element(0x4487, SECRET)))
        extra = element(0x1254C367, tag) + element(0x1941A469, element(0x61A7, SECRET * 40))
    video = element(0xE0, element(0xB0, WIDTH.to_bytes(2)), element(0xBA, HEIGHT.to_bytes(2)))
    track = element(
        0xAE, element(0xD7, b"\1"), element(0x73C5, b"\1"), element(0x83, bytes((kind,))), element(0x86, codec),
        *private_elements, video,
    )  # fmt: skip
    clusters = b"".join(
        element(0x1F43B675, element(0xE7, bytes((at,))), element(0xA3, b"\x81\0\0\x80" + SAMPLE), size=unknown)
        for at in range(2)
    )
    return head + element(
        0x18538067, element(0x1549A966, *info), element(0x1654AE6B, track), extra, clusters, behind, size=unknown
    )


# -- as ffmpeg writes them -------------------------------------------------------------

ENCODED_MP4: Final = base64.b64decode(
    """
    AAAAHGZ0eXBpc29tAAACAGlzb21pc28ybXA0MQAAAAhmcmVlAAAAfm1kYXQAAAGzABAHAAABthBgcYkbckbbfxtt/G238bbfxtt/G238bbfxtt/G
    238bbfxtt/G238bbfxtt/G237wAAAbMAEAcAAAG2EOBxiVtyRtt/G238bbfxtt/G238bbfxtt/G238bbfxtt/G238bbfxtt/G238bbfvAAADMW1v
    b3YAAABsbXZoZAAAAAAAAAAAAAAAAAAAA+gAAABQAAEAAAEAAAAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAQAAAAAAAAAAAAAAAAAAQAAAAAAA
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIAAAJbdHJhawAAAFx0a2hkAAAAAwAAAAAAAAAAAAAAAQAAAAAAAABQAAAAAAAAAAAAAAAAAAAAAAAB
    AAAAAAAAAAAAAAAAAAAAAQAAAAAAAAAAAAAAAAAAQAAAAABAAAAAQAAAAAAAJGVkdHMAAAAcZWxzdAAAAAAAAAABAAAAUAAAAAAAAQAAAAAB021k
    aWEAAAAgbWRoZAAAAAAAAAAAAAAAAAAAMgAAAAQAVcQAAAAAAC1oZGxyAAAAAAAAAAB2aWRlAAAAAAAAAAAAAAAAVmlkZW9IYW5kbGVyAAAAAX5t
    aW5mAAAAFHZtaGQAAAABAAAAAAAAAAAAAAAkZGluZgAAABxkcmVmAAAAAAAAAAEAAAAMdXJsIAAAAAEAAAE+c3RibAAAANpzdHNkAAAAAAAAAAEA
    AADKbXA0dgAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAABAAEAASAAAAEgAAAAAAAAAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABj/
    /wAAAGBlc2RzAAAAAAOAgIBPAAEABICAgEEgEQAAAAADIAAAAC4YBYCAgC8AAAGwAQAAAbWJEwAAAQAAAAEgAMSNiADNAgQIFGMAAAGyTGF2YzYy
    LjI4LjEwMQaAgIABAgAAABRidHJ0AAAAAAADIAAAAC4YAAAAGHN0dHMAAAAAAAAAAQAAAAIAAAIAAAAAHHN0c2MAAAAAAAAAAQAAAAEAAAACAAAA
    AQAAABRzdHN6AAAAAAAAADsAAAACAAAAFHN0Y28AAAAAAAAAAQAAACwAAABidWR0YQAAAFptZXRhAAAAAAAAACFoZGxyAAAAAAAAAABtZGlyYXBw
    bAAAAAAAAAAAAAAAAC1pbHN0AAAAJal0b28AAAAdZGF0YQAAAAEAAAAATGF2ZjYyLjEyLjEwMQ==
    """
)
"""Two frames of 64 x 64 pixels, as ffmpeg's encoder writes them."""

ENCODED_WEBM: Final = base64.b64decode(
    """
    GkXfo59ChoEBQveBAULygQRC84EIQoKEd2VibUKHgQJChYECGFOAZwEAAAAAAAHgEU2bdLpNu4tTq4QVSalmU6yBoU27i1OrhBZUrmtTrIHYTbuM
    U6uEElTDZ1OsggEbTbuMU6uEHFO7a1OsggHK7AEAAAAAAABZAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAVSalmsirXsYMPQkBNgI1MYXZmNjIuMTIuMTAxV0GNTGF2ZjYyLjEyLjEw
    MUSJiEBUAAAAAAAAFlSua76uAQAAAAAAADXXgQFzxYgJ1NeC19IHk5yBACK1nIN1bmSIgQCGhVZfVlA4g4EBI+ODhAJiWgDghrCBQLqBQBJUw2fY
    c3OgY8CAZ8iaRaOHRU5DT0RFUkSHjUxhdmY2Mi4xMi4xMDFzc7JjwItjxYgJ1NeC19IHk2fIoUWjiERVUkFUSU9ORIeTMDA6MDA6MDAuMDgwMDAw
    MDAwAB9DtnXN54EAo6qBAACAEAMAnQEqQABAAABHCIWFiIWEiAGiEAAzgguQmAKsiD1AAP74zKCjnIEAKABRAgABEA0QAMAAzrP/oAFmD/qU/lj+
    TAAcU7trkbuPs4EAt4r3gQHxggF48IED
    """
)
"""Two frames of 64 x 64 pixels, as ffmpeg's encoder writes them."""
