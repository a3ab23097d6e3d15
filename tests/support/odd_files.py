"""Files that are made to be hard to open, each in some lines: nothing here was taken from anywhere."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from PIL import Image


def picture(size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    """Return a picture that is red above and blue below."""
    made = Image.new("RGB", size, (200, 30, 30))
    made.paste((30, 30, 200), (0, size[1] // 2, *size))
    return made.convert(mode)


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """Return a picture's file."""
    made = io.BytesIO()
    image.save(made, image_format, **options)
    return made.getvalue()


def turned(orientation: int) -> bytes:
    """Return a JPEG whose camera was held as this number says."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x8825] = {1: "N", 2: (47.0, 22.0, 0.0)}
    return saved(picture((80, 40)), "JPEG", exif=exif)


def animation() -> bytes:
    """Return a GIF of 40 frames, of which the first is red."""
    frames = [Image.new("RGB", (40, 30), (250 - 6 * n, 0, 6 * n)) for n in range(40)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=20)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int, *, rows: int) -> bytes:
    """Return a grey PNG that says it is this large; of it there are this many rows."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 + width)) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def png_with_inflating_text() -> bytes:
    """Return a small PNG with a comment of 100 MB."""
    plain = saved(picture(), "PNG")
    return plain[:33] + _chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(100 * 1024**2))) + plain[33:]


def animated_webp() -> bytes:
    """Return a WebP of three frames."""
    frames = [Image.new("RGBA", (40, 30), (80 * n, 0, 0, 128)) for n in range(3)]
    return saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])


PICTURES: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "jpeg": (lambda: saved(picture(), "JPEG"), "64x48"),
    "jpeg of one pixel": (lambda: saved(picture((1, 1)), "JPEG"), "1x1"),
    "jpeg in cmyk": (lambda: saved(picture((640, 480), "CMYK"), "JPEG"), "512x384"),
    "jpeg turned by its camera": (lambda: turned(6), "40x80"),
    "jpeg, progressive": (lambda: saved(picture((2000, 1000)), "JPEG", progressive=True), "512x256"),
    "png with a palette and transparency": (
        lambda: saved(picture((600, 600), "P"), "PNG", transparency=0),
        "512x512",
    ),
    "png of sixteen bits": (lambda: saved(Image.new("I;16", (700, 350), 51_400), "PNG"), "512x256"),
    "png of one bit": (lambda: saved(picture((64, 64), "1"), "PNG"), "64x64"),
    "png, grey with alpha": (lambda: saved(picture((64, 64), "LA"), "PNG"), "64x64"),
    "gif, animated": (animation, "40x30"),
    "webp, animated": (animated_webp, "40x30"),
    "long and narrow": (lambda: saved(picture((20_000, 3)), "PNG"), "512x1"),
    "forty-nine million pixels": (lambda: png_of(7000, 7000, rows=7000), "512x512"),
    "bomb of 900 million pixels": (lambda: png_of(30_000, 30_000, rows=3_000), "too_many_pixels"),
    "claims to be huge": (lambda: png_of(2**31 - 1, 2**31 - 1, rows=0), "too_many_pixels"),
    "webp above its limit": (
        lambda: saved(Image.new("RGB", (5000, 5000)), "WEBP", method=0),
        "too_many_pixels",
    ),
    "comment that inflates": (png_with_inflating_text, "damaged"),
    "jpeg, cut off": (lambda: saved(picture((640, 480)), "JPEG")[:900], "damaged"),
    "png, cut off": (lambda: saved(picture((400, 400)), "PNG")[:300], "damaged"),
    "gif, cut off": (lambda: saved(Image.effect_noise((200, 200), 90), "GIF")[:3000], "damaged"),
    "webp, cut off": (lambda: saved(picture((640, 480)), "WEBP")[:100], "damaged"),
    "only the first bytes": (lambda: b"\xff\xd8\xff\xe0" + bytes(500), "damaged"),
    "svg that calls itself a picture": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", "damaged"),
    "tiff": (lambda: saved(picture(), "TIFF"), "damaged"),
    "eps": (lambda: saved(picture(), "EPS"), "damaged"),
    "nothing": (lambda: b"", "damaged"),
}
"""Files by what they are, each with the size of its thumbnail or the reason for which it has none."""


# Documents


def pdf(objects: Iterable[bytes], *, trailer: bytes = b"") -> bytes:
    """Return a document of these objects; the first is its catalog."""
    made, places = b"%PDF-1.7\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer\n<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF" % (len(places) + 1, trailer, len(made))
    return made + b"xref\n0 %d\n0000000000 65535 f \n%s%s" % (len(places) + 1, table, end)


def _stream(data: bytes, facts: bytes = b"") -> bytes:
    packed = zlib.compress(data, 9)
    return b"<</Length %d/Filter/FlateDecode%s>>stream\n%s\nendstream" % (len(packed), facts, packed)


def document(
    *contents: bytes,
    size: tuple[int, int] = (300, 200),
    more: Iterable[bytes] = (),
    trailer: bytes = b"",
    resources: bytes = b"",
) -> bytes:
    """Return a document with a page for each content; `more` objects follow those of the pages."""
    first = 4
    kids = b" ".join(b"%d 0 R" % (first + 2 * n) for n in range(len(contents)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(contents), kids),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, content in enumerate(contents):
        page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %d %d]/Contents %d 0 R/Resources<</Font<</F 3 0 R>>%s>>>>"
        objects += [page % (*size, first + 2 * number + 1, resources), _stream(content)]
    return pdf([*objects, *more], trailer=trailer)


def words(text: bytes) -> bytes:
    """Return the content of a page with a line of text."""
    return b"BT /F 18 Tf 20 100 Td (%s) Tj ET" % text


def nested_forms() -> bytes:
    """Return 3 KB that draw a line ten to the power of nine times."""
    depth, first = 9, 6
    forms = []
    for level in range(depth):
        inner = b"/X Do " * 10 if level < depth - 1 else b"0 0 m 9 9 l S"
        names = b"/Resources<</XObject<</X %d 0 R>>>>" % (first + level + 1) if level < depth - 1 else b""
        forms.append(_stream(inner, b"/Type/XObject/Subtype/Form/BBox[0 0 300 200]" + names))
    return document(b"/X Do", more=forms, resources=b"/XObject<</X %d 0 R>>" % first)


def many_strokes() -> bytes:
    """Return a page of three million curves."""
    return document(b"0 0 m 300 1 2 200 150 199 c S\n" * 3_000_000)


def endless_tiles() -> bytes:
    """Return a page that is paved with tiles of a millionth of a point."""
    tile = _stream(
        b"0 0 m 9 9 l S",
        b"/Type/Pattern/PatternType 1/PaintType 1/TilingType 2/BBox[0 0 9 9]/XStep .000001/YStep .000001/Resources<<>>",
    )
    return document(b"/Pattern cs /P scn 0 0 300 200 re f", more=[tile], resources=b"/Pattern<</P 6 0 R>>")


def inflating_image() -> bytes:
    """Return a page with a picture of 100 million pixels, in 300 KB."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(3_000_000)) for _ in range(100)) + packer.flush()
    facts = b"/Type/XObject/Subtype/Image/Width 10000/Height 10000/ColorSpace/DeviceRGB/BitsPerComponent 8"
    image = b"<</Length %d/Filter/FlateDecode%s>>stream\n%s\nendstream" % (len(data), facts, data)
    return document(b"300 0 0 200 0 0 cm /X Do", more=[image], resources=b"/XObject<</X 6 0 R>>")


def encrypted() -> bytes:
    """Return a document that needs a password which nobody knows."""
    secret = b"<" + b"5a" * 32 + b">"
    rights = b"<</Filter/Standard/V 1/R 2/Length 40/P -4/O %s/U %s>>" % (secret, secret)
    ids = b"/ID[<00112233445566778899aabbccddeeff><00112233445566778899aabbccddeeff>]"
    return document(words(b"secret"), more=[rights], trailer=b"/Encrypt 6 0 R" + ids)


DOCUMENTS: Mapping[str, tuple[Callable[[], bytes], str, str]] = {
    "of two pages": (lambda: document(words(b"First page"), words(b"Second page")), "512x342", "2 pages"),
    "without text": (lambda: document(b"0 0 m 9 9 l S"), "512x342", "no_text"),
    "of 300 pages": (lambda: document(*[words(b"Page")] * 300), "512x342", "300 pages, truncated"),
    "of a page of a mile": (lambda: document(words(b"far"), size=(200_000, 200_000)), "512x512", "1 pages"),
    "of a page like a thread": (lambda: document(words(b"thin"), size=(20_000, 1)), "too_narrow", "1 pages"),
    "encrypted": (encrypted, "encrypted", "encrypted"),
    "cut off": (lambda: document(words(b"First page"))[:250], "damaged", "damaged"),
    "only the first bytes": (lambda: b"%PDF-1.7\n" + bytes(2000), "damaged", "damaged"),
    "without pages": (lambda: document(), "damaged", "damaged"),
    "of nested forms": (nested_forms, "parser_killed too_slow", "parser_killed too_slow"),
    "of very many strokes": (many_strokes, "parser_killed too_slow", "parser_killed too_slow"),
    "that takes for ever": (endless_tiles, "too_slow", "too_slow"),
    "with a picture that inflates": (inflating_image, "512x342", "no_text"),
}
"""Documents by what they are, each with what its thumbnail and its text come to; two words: either limit."""
