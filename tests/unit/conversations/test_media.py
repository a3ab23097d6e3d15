"""Media judged by their bytes: whole ones are taken whatever they are called, cut and broken ones never."""

import base64
import random
import re
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.conversations.media import MAX_MEDIA_CHARS, UnreadableMedia, of_base64, of_bytes, trust
from local.messages_api.media import image_problem, pdf_problem
from tests.support.media import IMAGES, b64, gif, jpeg, pdf, png, webp

pytestmark = pytest.mark.fault("F-01a")

WHOLE = {**{kind: make(3, 5) for kind, make in IMAGES.items()}, "application/pdf": pdf()}


@pytest.mark.parametrize("media_type", WHOLE)
@pytest.mark.parametrize("called", ["image/jpg", "image/png", "application/octet-stream", "IMAGE/JPEG; q=1", ""])
def test_the_bytes_say_what_a_medium_is(media_type: str, called: str) -> None:
    raw = WHOLE[media_type]

    for value in (b64(raw), f"data:{called};base64,{b64(raw)}"):
        medium = of_base64("image", value, called)
        assert (medium.media_type, base64.b64decode(medium.data)) == (media_type, raw)
        assert medium.kind == ("document" if media_type == "application/pdf" else "image")


@pytest.mark.parametrize("media_type", WHOLE)
def test_a_medium_that_was_cut_off_anywhere_is_refused(media_type: str) -> None:
    raw = WHOLE[media_type]
    lost = len(b"\n") if media_type == "application/pdf" else 0

    for end in range(len(raw) - lost):
        with pytest.raises(UnreadableMedia):
            of_bytes("image", raw[:end], media_type)


@given(st.sampled_from(sorted(WHOLE)), st.randoms(use_true_random=False))
def test_what_is_taken_of_a_damaged_medium_is_what_the_model_takes(media_type: str, rnd: random.Random) -> None:
    raw = bytearray(WHOLE[media_type])
    for _ in range(rnd.randint(1, 4)):
        raw[rnd.randrange(len(raw))] = rnd.randrange(256)

    try:
        medium = of_bytes("image", bytes(raw), media_type)
    except UnreadableMedia:
        return
    if medium.media_type == "application/pdf":
        assert pdf_problem(medium.data) is None
    elif medium.kind == "image":
        problem, sides = image_problem(medium.data, medium.media_type)
        assert problem is None
        assert max(sides) <= 8000


@pytest.mark.parametrize(
    ("kind", "raw", "media_type", "why"),
    [
        ("image", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "image/heic", "none of PNG, JPEG, GIF and WebP"),
        ("image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", "called image/svg+xml"),
        ("image", b"BM" + b"\0" * 60, "image/bmp", "none of"),
        ("image", b"a,b\n1,2\n", "text/csv", "none of"),
        ("image", b"", "image/png", "must not be empty"),
        ("document", b"PK\x03\x04", "application/vnd.ms-word", "none of"),
        ("document", b"\xff\xfe", "text/plain", "UTF-8"),
        ("document", b"a\0b", "text/plain", "binary"),
        ("document", b" \n", "text/plain", "blank"),
        ("document", b"x" * (2**20 + 1), "text/plain", "bytes of text"),
        ("document", b"plain", "application/pdf", "none of"),
        ("document", pdf().replace(b"/Root", b"/Encrypt 3 0 R/Root"), "application/pdf", "encrypted"),
        ("document", pdf() + b"/Type/Page " * 101 + pdf(), "application/pdf", "101 pages"),
        ("audio", b"RIFF\0\0\0\0WAVE", "audio/wav", "is audio"),
        ("video", png(), "video/mp4", "is video"),
        ("image", png(8001, 1), "image/png", "8001 x 1 pixels"),
        ("image", png(0, 1), "image/png", "0 x 1 pixels"),
        ("image", jpeg(9000, 9000), "image/jpeg", "9000 x 9000 pixels"),
        ("image", webp(9000, 1), "image/webp", "9000 x 1 pixels"),
        ("image", gif(1, 8001), "image/gif", "1 x 8001 pixels"),
        ("image", png() + b"\0" * (MAX_MEDIA_CHARS * 3 // 4), "image/png", "must be at most"),
    ],
)  # fmt: skip
def test_what_the_model_does_not_take_is_refused_and_says_why(kind: str, raw: bytes, media_type: str, why: str) -> None:
    with pytest.raises(UnreadableMedia, match=re.escape(why)):
        of_bytes(kind, raw, media_type)


@pytest.mark.parametrize("value", ["not base64!", b64(png())[:-3], "data:image/png,%89PNG", "data:;base64,é", "\ud800"])
def test_what_is_not_base64_is_refused(value: str) -> None:
    with pytest.raises(UnreadableMedia, match="base64"):
        of_base64("image", value, "image/png")


def test_texts_of_many_types_are_plain_text_documents() -> None:
    for called in ("text/csv", "text/html; charset=utf-8", "application/json", "text/plain", ""):
        medium = of_bytes("document", "a,ü\n".encode(), called)
        assert (medium.media_type, medium.text()) == ("text/plain", "a,ü\n")


def test_a_png_with_one_wrong_byte_anywhere_is_refused() -> None:
    raw = png(3, 5)

    for at in range(len(raw)):
        with pytest.raises(UnreadableMedia):
            of_bytes("image", raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :], "image/png")


@pytest.mark.fault("F-01f")
@pytest.mark.parametrize(
    "media_type",
    ["", "text/plain", "video/mp2t", "application/octet-stream", "application/sql", "application/x-sh", "x"],
)
def test_text_is_a_document_whatever_its_type_is_called(media_type: str) -> None:
    medium = of_bytes("document", "const ä = 1;\n".encode(), media_type)

    assert (medium.media_type, medium.text()) == ("text/plain", "const ä = 1;\n")
    for binary in (b"a\0b", b"\xff\xfe"):
        with pytest.raises(UnreadableMedia):
            of_bytes("document", binary, media_type)


def chunked(width: int, height: int, pixels: bytes, *, interlace: int = 0, pieces: int = 1, more: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compress(pixels, 9)
    size = -(-len(packed) // pieces)
    data = b"".join(chunk(b"IDAT", packed[at : at + size]) for at in range(0, len(packed), size))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + data + chunk(b"IEND", b"")


@pytest.mark.fault("F-25b")
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.binary(min_size=1, max_size=8), st.booleans())
def test_the_pixels_of_a_png_are_as_many_as_its_header_announces(
    width: int, height: int, pieces: int, salt: bytes, is_interlaced: bool
) -> None:
    passes = [(0, 0, 1, 1)]
    if is_interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    sides = [(len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in passes]
    size = sum(rows * (1 + 3 * columns) for columns, rows in sides if columns)
    pixels = (salt * size)[:size]

    def make(data: bytes) -> bytes:
        return chunked(width, height, data, interlace=int(is_interlaced), pieces=pieces)

    assert of_bytes("image", make(pixels)).media_type == "image/png"
    for wrong in (pixels + b"\0", pixels[:-1], pixels + bytes(10_000)):
        with pytest.raises(UnreadableMedia, match="broken image/png"):
            of_bytes("image", make(wrong))


@pytest.mark.fault("F-25b")
@pytest.mark.parametrize("kind", ["pixels", "zTXt", "iTXt", "iCCP"])
def test_nothing_is_inflated_beyond_what_is_announced(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inflated = 0

    class Counting:
        def __init__(self) -> None:
            self._stream = decompressobj()

        def decompress(self, data: bytes, most: int = 0) -> bytes:
            nonlocal inflated
            out = self._stream.decompress(data, most)
            inflated += len(out)
            return out

        def __getattr__(self, name: str) -> object:
            return getattr(self._stream, name)

    decompressobj = zlib.decompressobj
    bomb = bytes(2_000_000)
    hidden = b"a\0\0" + zlib.compress(bomb)
    more = struct.pack(">I", len(hidden)) + kind.encode() + hidden
    more += struct.pack(">I", zlib.crc32(kind.encode() + hidden))
    raw = chunked(1, 1, bomb) if kind == "pixels" else chunked(1, 1, bytes(4), more=more)
    monkeypatch.setattr(zlib, "decompressobj", Counting)

    if kind == "pixels":
        with pytest.raises(UnreadableMedia):
            of_bytes("image", raw)
    else:
        of_bytes("image", raw)

    assert inflated <= 5


@pytest.mark.fault("F-25b")
def test_an_image_is_inflated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = random.Random(7).randbytes(31 * 94)
    raw, kept = chunked(31, 31, pixels[: 31 * 94]), chunked(31, 31, pixels[: 31 * 94], pieces=3)
    of_bytes("image", raw)
    trust(kept)

    class Idle:
        def decompress(self, *_: object) -> bytes:
            raise AssertionError("inflated again")

    monkeypatch.setattr(zlib, "decompressobj", Idle)

    for known in (raw, kept):
        assert of_bytes("image", known).media_type == "image/png"


@pytest.mark.fault("F-25b")
@pytest.mark.parametrize("head", [";", "a;", ";base64", "base64;x="])
def test_a_long_head_of_a_data_url_is_not_read(head: str) -> None:
    """Peak of memory: a pattern with groups would keep a step for each repetition."""
    value = "data:" + head * (1_000_000 // len(head)) + ",AAAA"

    tracemalloc.start()
    try:
        with pytest.raises(UnreadableMedia):
            of_base64("image", value, "image/png")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("node", [b"/Type%x\n/Page", b"/Type 9 0 R", b""], ids=["a comment", "elsewhere", "no type"])
def test_pages_of_a_pdf_are_counted_however_they_are_written(node: bytes) -> None:
    def written(pages: int) -> bytes:
        kids = b"3 0 R " * pages
        objects = [b"<</Pages 2 0 R>>", b"<</Kids[%s]>>" % kids, b"<<%s>>" % node]
        body = b"".join(b"%d 0 obj%s\nendobj\n" % (n, each) for n, each in enumerate(objects, 1))
        return b"%PDF-1.7\n" + body + b"startxref\n0\n%%EOF"

    assert of_bytes("document", written(100)).media_type == "application/pdf"
    with pytest.raises(UnreadableMedia, match="is a PDF of 101 pages; at most 100 are taken"):
        of_bytes("document", written(101))
